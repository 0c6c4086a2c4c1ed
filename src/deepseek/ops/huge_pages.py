"""Tensors in large pages of memory, which processors find faster than small ones."""

import mmap
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

HUGE = 1 << 21
"""Bytes of a large page."""


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU for numbers that are yet to be written.

    Where the system has large pages it lies in as many as it fills, and the rest in small ones, so
    that none is taken for a part of it; memory is taken as it is written, a page at a time.

    Args:
        shape: Of the tensor.
        dtype: Of its numbers.
    """
    n_bytes = prod(shape) * dtype.itemsize
    if n_bytes < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(*shape, dtype=dtype)
    memory = mmap.mmap(-1, n_bytes + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE
    try:
        memory.madvise(mmap.MADV_HUGEPAGE, start, n_bytes // HUGE * HUGE)
    except OSError:  # a kernel built without them
        return torch.empty(*shape, dtype=dtype)
    return whole[start : start + n_bytes].view(dtype).view(*shape)
