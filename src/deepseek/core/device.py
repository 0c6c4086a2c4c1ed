"""Where and in which number format to compute, and why."""

from dataclasses import dataclass

import torch

from deepseek.core.errors import ConfigError
from deepseek.core.threads import thread_count

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

INT8 = "int8"
"""Asks for products of quantised weights with activations rounded to 8 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """The resolved device, dtype and thread count, each with its reason."""

    device: torch.device
    dtype: torch.dtype
    dtype_reason: str
    quantised: bool
    """Keep quantised weights as they are and multiply in 8 bits; dtype is the rest's."""
    n_threads: int
    threads_reason: str

    def describe(self) -> str:
        """One line for people."""
        dtype = INT8 if self.quantised else str(self.dtype).removeprefix("torch.")
        return (
            f"{self.device}, {dtype} ({self.dtype_reason}), "
            f"{self.n_threads} threads ({self.threads_reason})"
        )


def choose_compute(
    device: str = "auto", dtype: str = "auto", threads: int | None = None
) -> Compute:
    """Resolve `auto` settings for this machine. Sets torch's thread count.

    Raises:
        ConfigError: The device or dtype is unknown or not there.
    """
    n_threads, threads_reason = thread_count(threads)
    torch.set_num_threads(n_threads)
    chosen_device = _device(device)
    if dtype == INT8 and chosen_device.type != "cpu":
        raise ConfigError("dtype int8 is for the CPU", "use --device cpu, or another dtype")
    chosen_dtype, reason = _dtype("auto" if dtype == INT8 else dtype, chosen_device)
    if dtype == INT8:
        reason = "as requested"
    return Compute(
        device=chosen_device,
        dtype=chosen_dtype,
        dtype_reason=reason,
        quantised=dtype == INT8,
        n_threads=n_threads,
        threads_reason=threads_reason,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {name!r}", "use auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= n_gpus:
            raise ConfigError(f"device is {name!r}, and torch sees {n_gpus} GPUs", "use cpu")
    return device


def _dtype(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    if name != "auto":
        if name not in DTYPES:
            raise ConfigError(f"dtype is {name!r}", f"use auto, {INT8}, {', '.join(DTYPES)}")
        return DTYPES[name], "as requested"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported():
            return torch.bfloat16, "the GPU computes bfloat16"
        return torch.float16, "the GPU has no bfloat16"
    if has_fast_bfloat16():
        return torch.bfloat16, "the CPU has bfloat16 instructions"
    return torch.float32, "the CPU has no bfloat16 instructions"


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16, AMX or Arm BF16)."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
