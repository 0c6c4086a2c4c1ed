"""From a checkpoint's name to an `Engine`, with a report of what loading cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deepseek.core.device import Compute, choose_compute
from deepseek.core.errors import ConfigError
from deepseek.core.log import LOGGER
from deepseek.core.memory import peak_bytes, reset_peak, resident_bytes
from deepseek.engine.engine import Engine
from deepseek.model.budget import Budget, Needs, plan
from deepseek.model.checkpoint import is_quantised, load_model, quantised_bytes
from deepseek.model.config import ModelConfig
from deepseek.model.hierarchical import AttentionMode, choose_hierarchy
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
    kv_dtype: KVDtype = "bfloat16",
    kv_disk: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    memory_budget: int | None = None,
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
    tier = choose_tier(kv_dtype, kv_disk)
    compute = choose_compute(device, dtype, threads)
    checkpoint = ensure(name, on_pull)
    reset_peak()
    start = time.perf_counter()
    source = open_weights(checkpoint.path)
    tokenizer = (
        Tokenizer.from_folder(source.folder)
        if source.folder is not None
        else Tokenizer.from_gguf_metadata(source.metadata)
    )
    on_cpu = compute.device.type == "cpu"
    if dtype == "auto" and on_cpu and native.is_fast() and is_quantised(source):
        reason = "the weights are quantised"
        compute = replace(compute, quantised=True, dtype_reason=reason)
    if compute.quantised:
        native.require()
        native.use_threads(compute.n_threads)
    _require_native_for(kv_dtype, memory_budget, compute, is_quantised(source))
    budget = None
    if memory_budget is not None:
        budget = _plan(source, memory_budget, context_window)
        context_window = budget.context_window
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
        weights=f"{describe_formats(source)}; computed in "
        + (f"int8 ({native.level()})" if compute.quantised else _dtype_name(compute.dtype)),
    )
    LOGGER.info("loaded %s: %s", checkpoint.name, report)
    config = model.config
    hierarchy = choose_hierarchy(config, context_window or config.context_window, attention)
    engine = Engine(
        model,
        tokenizer,
        name=checkpoint.name,
        dtype=compute.dtype,
        device=compute.device,
        context_window=context_window,
        hierarchy=hierarchy,
        tier=tier,
        budget=budget,
        on_prefill=on_prefill,
        fingerprint=lambda: fingerprint(source),
    )
    return engine, report


def _require_native_for(
    kv_dtype: KVDtype, memory_budget: int | None, compute: Compute, is_quantised: bool
) -> None:
    """What only the native library does is refused elsewhere.

    Raises:
        ConfigError: It is wanted.
    """
    if kv_dtype != "bfloat16" and not compute.quantised:
        raise ConfigError(
            f"keys and values in {kv_dtype}, but the weights are computed in "
            + _dtype_name(compute.dtype),
            "use --dtype int8, which the native library computes, or leave --kv-dtype at bfloat16",
        )
    if memory_budget is None:
        return
    if not (compute.quantised and is_quantised):
        raise ConfigError(
            "a memory budget is kept with quantised weights in the native library only",
            "use a quantised GGUF checkpoint on a CPU, with dtype int8 or auto",
        )
    if kv_dtype != "bfloat16":
        raise ConfigError(
            f"a memory budget is not kept yet with keys and values in {kv_dtype}",
            "leave --kv-dtype at bfloat16, or give no memory budget",
        )


def _plan(source: WeightSource, memory_budget: int, context_window: int | None) -> Budget:
    needs = Needs(
        config=ModelConfig.from_hf(source.config()),
        n_bytes=memory_budget,
        taken=resident_bytes(),
        weights=quantised_bytes(source),
    )
    budget = plan(needs, context_window)
    LOGGER.info(
        "memory budget: %d MiB, weights %d MiB, a context window of %d tokens in %s",
        memory_budget >> 20,
        needs.weights >> 20,
        budget.context_window,
        budget.kv_format,
    )
    return budget


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
