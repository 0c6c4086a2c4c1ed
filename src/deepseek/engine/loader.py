"""From a checkpoint's name to an `Engine`, with a report of what loading cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deepseek.core.device import Compute, choose_compute
from deepseek.core.log import LOGGER
from deepseek.core.memory import peak_bytes, reset_peak
from deepseek.engine.cache_plan import plan_cache
from deepseek.engine.engine import Engine
from deepseek.engine.prefix_folder import PrefixSettings
from deepseek.engine.prefix_tier import COPIED_BYTES
from deepseek.model.checkpoint import is_quantised, load_model
from deepseek.model.hierarchical import AttentionMode
from deepseek.ops import native
from deepseek.ops.cold import KVDtype, choose_tier
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.weights.fingerprint import fingerprint
from deepseek.weights.pull import OnProgress, ensure
from deepseek.weights.source import WeightSource, describe_formats, open_weights

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What loading took."""

    seconds: float
    file_bytes: int
    peak_bytes: int
    """Most memory the process held while loading."""
    compute: str
    """Device, dtype and threads with their reasons."""
    weights: str = ""
    """How the file stores the weights, and the dtype they are computed in."""
    keys_and_values: str = ""
    """How they are kept, and why if that was not asked for."""

    def __str__(self) -> str:
        return (
            f"{self.seconds:.1f} s, file {self.file_bytes / 2**20:,.0f} MiB, "
            f"peak memory {self.peak_bytes / 2**20:,.0f} MiB, {self.compute}"
        )


def load_engine(
    name: str,
    *,
    context_window: int | None = None,
    attention: AttentionMode = "auto",
    kv_dtype: KVDtype = "auto",
    kv_disk: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    memory_budget: int | None = None,
    prefixes: PrefixSettings | None = None,
    on_load: Progress | None = None,
    on_pull: OnProgress | None = None,
    on_prefill: Progress | None = None,
) -> tuple[Engine, LoadReport]:
    """Load a named checkpoint, a GGUF file or a safetensors folder.

    Raises:
        ConfigError: A setting or the architecture is not supported.
        DownloadError: The checkpoint cannot be fetched.
        CheckpointError: The weights are damaged.
        TokenizerError: The checkpoint's vocabulary or template is invalid.
    """
    if kv_dtype != "auto":
        choose_tier(kv_dtype, kv_disk)  # a mistake is reported before anything is pulled
    compute = choose_compute(device, dtype, threads)
    checkpoint = ensure(name, on_pull)
    reset_peak()
    start = time.perf_counter()
    source = open_weights(checkpoint.path)
    tokenizer = _tokenizer_of(source)
    if dtype == "auto" and _suits_native(source, compute):
        reason = "the weights are quantised"
        compute = replace(compute, quantised=True, dtype_reason=reason)
    if compute.quantised:
        native.require()
        native.use_threads(compute.n_threads)
    cache = plan_cache(
        source,
        compute,
        kv_dtype=kv_dtype,
        kv_disk=kv_disk,
        memory_budget=memory_budget,
        context_window=context_window,
        attention=attention,
        reserved=COPIED_BYTES if prefixes is not None else 0,
    )
    model = load_model(
        source,
        dtype=compute.dtype,
        device=compute.device,
        quantised=compute.quantised,
        on_progress=on_load,
    )
    report = LoadReport(
        seconds=time.perf_counter() - start,
        file_bytes=source.n_bytes,
        peak_bytes=peak_bytes(),
        compute=compute.describe(),
        weights=_described(source, compute),
        keys_and_values=cache.keys_and_values,
    )
    LOGGER.info("loaded %s: %s", checkpoint.name, report)
    engine = Engine(
        model,
        tokenizer,
        name=checkpoint.name,
        dtype=compute.dtype,
        device=compute.device,
        context_window=cache.context_window,
        hierarchy=cache.hierarchy,
        tier=cache.tier,
        budget=cache.budget,
        on_prefill=on_prefill,
        fingerprint=lambda: fingerprint(source),
        prefixes=prefixes,
    )
    return engine, report


def _tokenizer_of(source: WeightSource) -> Tokenizer:
    if source.folder is not None:
        return Tokenizer.from_folder(source.folder)
    return Tokenizer.from_gguf_metadata(source.metadata)


def _suits_native(source: WeightSource, compute: Compute) -> bool:
    return compute.device.type == "cpu" and native.is_fast() and is_quantised(source)


def _described(source: WeightSource, compute: Compute) -> str:
    """How weights are stored and computed."""
    level = f"int8 ({native.level()})"
    how = level if compute.quantised else _dtype_name(compute.dtype)
    return f"{describe_formats(source)}; computed in {how}"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
