"""From a checkpoint's name to an `Engine`, with a report of what loading cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch

from deepseek.core.device import Compute, choose_compute
from deepseek.core.errors import ConfigError
from deepseek.core.log import LOGGER
from deepseek.core.memory import peak_bytes, reset_peak
from deepseek.engine.cache_plan import plan_cache
from deepseek.engine.draft_model import (
    DraftModel,
    check_vocabulary,
    pages_of_draft_model,
    shares_of_draft_model,
)
from deepseek.engine.engine import Engine
from deepseek.engine.prefix_folder import PrefixSettings
from deepseek.engine.prefix_tier import COPIED_BYTES
from deepseek.model.checkpoint import for_kernels, is_quantised, load_model, quantised_bytes
from deepseek.model.config import ModelConfig
from deepseek.model.decoder import NativeDecoder, takes_shape
from deepseek.model.hierarchical import AttentionMode
from deepseek.model.memory_plan import Share
from deepseek.ops import native
from deepseek.ops.cold import KVDtype, choose_tier
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.weights.fingerprint import fingerprint
from deepseek.weights.pull import OnProgress, ensure
from deepseek.weights.source import WeightSource, describe_formats, open_weights

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""
Speculation = Literal["auto", "off"]
"""Whether next tokens are guessed: where that gains, or never."""


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
    speculation: Speculation = "auto",
    draft_model: str | None = None,
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
    _check(kv_dtype, kv_disk, speculation, draft_model)
    compute = choose_compute(device, dtype, threads)
    checkpoint = ensure(name, on_pull)
    reset_peak()
    start = time.perf_counter()
    source = open_weights(checkpoint.path)
    tokenizer = _tokenizer_of(source)
    compute = _compute_of(source, compute, dtype)
    source = for_kernels(source) if compute.quantised else source
    draft = _open_draft_model(draft_model, tokenizer, compute, on_pull)
    cache = plan_cache(
        source,
        compute,
        kv_dtype=kv_dtype,
        kv_disk=kv_disk,
        memory_budget=memory_budget,
        context_window=context_window,
        attention=attention,
        others=_counted_too(draft, prefixes),
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
        speculates=speculation == "auto",
        draft_model=_load_draft_model(draft, compute, is_bounded=cache.budget is not None),
        prefixes=prefixes,
    )
    return engine, report


def _check(
    kv_dtype: KVDtype,
    kv_disk: str | Path | None,
    speculation: Speculation,
    draft_model: str | None,
) -> None:
    """Report mistakes before anything is pulled."""
    if speculation not in get_args(Speculation):
        raise ConfigError(f"speculation is {speculation!r}", "use auto or off")
    if draft_model is not None and speculation == "off":
        raise ConfigError(
            "a draft model takes part in speculation, and that is off",
            "leave out the draft model, or speculation=off",
        )
    if kv_dtype != "auto":
        choose_tier(kv_dtype, kv_disk)


def _compute_of(source: WeightSource, compute: Compute, dtype: str) -> Compute:
    """How these weights are computed: quantised ones as they are, where that is fast."""
    if dtype == "auto" and _suits_native(source, compute):
        reason = "the weights are quantised"
        compute = replace(compute, quantised=True, dtype_reason=reason)
    if compute.quantised:
        native.require()
    native.use_threads(compute.n_threads)
    return compute


def _open_draft_model(
    name: str | None, tokenizer: Tokenizer, compute: Compute, on_pull: OnProgress | None
) -> WeightSource | None:
    """A small model that guesses for the one with this tokenizer, if one is named."""
    if name is None:
        return None
    source = open_weights(ensure(name, on_pull).path)
    check_vocabulary(_tokenizer_of(source), tokenizer)
    config = ModelConfig.from_hf(source.config())
    if not (compute.quantised and is_quantised(source) and takes_shape(config)):
        raise ConfigError(
            f"the draft model {name} does not run in the native library",
            "take one with quantised weights, on a CPU",
        )
    return source


def _load_draft_model(
    source: WeightSource | None, compute: Compute, *, is_bounded: bool
) -> DraftModel | None:
    if source is None:
        return None
    model = load_model(
        source, dtype=compute.dtype, device=compute.device, quantised=compute.quantised
    )
    most = pages_of_draft_model() if is_bounded else None
    return DraftModel(NativeDecoder(model, most=most))


def _counted_too(
    draft_model: WeightSource | None, prefixes: PrefixSettings | None
) -> tuple[Share, ...]:
    """What a memory budget counts beside the model and its cache."""
    shares = list[Share]()
    if draft_model is not None:
        config = ModelConfig.from_hf(draft_model.config())
        shares += shares_of_draft_model(config, quantised_bytes(draft_model))
    if prefixes is not None:
        shares.append(Share("copies for the prefix cache", COPIED_BYTES))
    return tuple(shares)


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
