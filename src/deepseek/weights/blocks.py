"""GGUF's quantised blocks to numbers (formats of ggml-quants.h), in plain torch.

A block is a fixed number of bytes for a fixed number of weights. Everything is computed in
float32 from the stored half-precision scales, as llama.cpp does, and rounded once at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepseek.core.errors import CheckpointError

CHUNK_WEIGHTS = 1 << 22  # weights dequantised at a time: bounds the float32 scratch to 16 MiB


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """How a tensor type stores weights."""

    name: str
    n_weights: int
    n_bytes: int
    decode: Callable[[Tensor], Tensor]
    """uint8 [blocks, n_bytes] -> float32 [blocks, n_weights]."""


def half(block: Tensor, start: int) -> Tensor:
    """A half-precision number at a byte offset of each block, as float32 [blocks, 1]."""
    return block[:, start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """Low nibbles, then high nibbles, along the last axis, as float32."""
    return torch.cat((packed & 15, packed >> 4), -1).float()


def _q4_0(block: Tensor) -> Tensor:
    return _nibbles(block[:, 2:]).sub_(8).mul_(half(block, 0))


def _q4_1(block: Tensor) -> Tensor:
    return _nibbles(block[:, 4:]).mul_(half(block, 0)).add_(half(block, 2))


def _q8_0(block: Tensor) -> Tensor:
    return block[:, 2:].contiguous().view(torch.int8).float().mul_(half(block, 0))


def k_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight 6-bit scales and eight 6-bit minima from 12 bytes, as uint8 [blocks, 8] each."""
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = torch.cat((low & 63, (high & 15) | ((low >> 6) << 4)), -1)
    minima = torch.cat((middle & 63, (high >> 4) | ((middle >> 6) << 4)), -1)
    return scales, minima


def _q4_k(block: Tensor) -> Tensor:
    scales, minima = k_scales(block[:, 4:16])
    scale = (half(block, 0) * scales).unsqueeze(-1)
    minimum = (half(block, 2) * minima).unsqueeze(-1)
    # Four runs of 32 bytes; the low nibbles are one group of 32 weights, the high the next.
    runs = block[:, 16:].view(-1, 4, 32)
    groups = torch.stack((runs & 15, runs >> 4), 2).view(-1, 8, 32).float()
    return groups.mul_(scale).sub_(minimum).view(block.shape[0], 256)


def _q6_k(block: Tensor) -> Tensor:
    low = block[:, :128].view(-1, 2, 64)
    high = block[:, 128:192].view(-1, 2, 32)
    scales = block[:, 192:208].contiguous().view(torch.int8).float()
    quarters = (
        (low[..., :32] & 15) | ((high & 3) << 4),
        (low[..., 32:] & 15) | (((high >> 2) & 3) << 4),
        (low[..., :32] >> 4) | (((high >> 4) & 3) << 4),
        (low[..., 32:] >> 4) | ((high >> 6) << 4),
    )
    weights = torch.stack(quarters, 2).view(-1, 16, 16).float().sub_(32)
    scale = (half(block, 208) * scales).unsqueeze(-1)
    return weights.mul_(scale).view(block.shape[0], 256)


def _plain(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda block: block.contiguous().view(dtype).float()


# GGUF's type id -> format.
FORMATS = {
    0: BlockFormat("F32", 1, 4, _plain(torch.float32)),
    1: BlockFormat("F16", 1, 2, _plain(torch.float16)),
    2: BlockFormat("Q4_0", 32, 18, _q4_0),
    3: BlockFormat("Q4_1", 32, 20, _q4_1),
    8: BlockFormat("Q8_0", 32, 34, _q8_0),
    12: BlockFormat("Q4_K", 256, 144, _q4_k),
    14: BlockFormat("Q6_K", 256, 210, _q6_k),
    30: BlockFormat("BF16", 1, 2, _plain(torch.bfloat16)),
}


def dequantise(
    raw: Tensor, form: BlockFormat, shape: tuple[int, ...], dtype: torch.dtype, name: str = "tensor"
) -> Tensor:
    """Numbers of a quantised tensor.

    Args:
        raw: All its bytes, uint8 [n_bytes]; may be a view of a memory-mapped file.
        form: How they are stored.
        shape: The tensor's shape, row-major.
        dtype: What to round to.
        name: For the error message.

    Raises:
        CheckpointError: A scale or weight is infinite or not a number.
    """
    out = torch.empty(shape, dtype=dtype)
    flat = out.view(-1, form.n_weights)
    blocks = raw.view(-1, form.n_bytes)
    step = max(1, CHUNK_WEIGHTS // form.n_weights)
    for start in range(0, blocks.shape[0], step):
        numbers = form.decode(blocks[start : start + step])
        # A sum is infinite or NaN as soon as one number is, and costs one pass.
        if not torch.isfinite(numbers.sum()):
            raise CheckpointError(
                f"{name} holds numbers that are infinite or not numbers",
                "the file is damaged: fetch it again",
            )
        flat[start : start + step] = numbers
    check_range(out, name)
    return out


def check_range(rounded: Tensor, name: str) -> None:
    """Refuse weights that half precision cannot hold.

    Raises:
        CheckpointError: Rounding made one infinite.
    """
    if rounded.dtype is torch.float16 and torch.isinf(rounded).any():
        raise CheckpointError(
            f"{name} holds numbers too large for float16", "use --dtype float32 or bfloat16"
        )
