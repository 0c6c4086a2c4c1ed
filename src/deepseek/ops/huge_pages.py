"""Tensors in memory of their own, in large pages where they fill some.

Processors find large pages faster than small ones. And memory of one's own goes back whole: in the
heap, what is kept of each pass would settle in the gap that the pass before left, and so the next
gap be another one.
"""

import contextlib
import ctypes
import mmap
import sys
from collections.abc import Sequence
from functools import cache
from math import prod

import torch
from torch import Tensor

HUGE = 1 << 21
"""Bytes of a large page."""
LEAST = 1 << 17
"""Bytes of a tensor from which on it is worth asking the system."""


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU for numbers that are yet to be written.

    Where the system has large pages it lies in as many as it fills, and the rest in small ones, so
    that none is taken for a part of it; memory is taken as it is written, a page at a time.

    Args:
        shape: Of the tensor.
        dtype: Of its numbers.
    """
    n_bytes = prod(shape) * dtype.itemsize
    if n_bytes < LEAST or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.empty(*shape, dtype=dtype)
    n_huge = n_bytes // HUGE if hasattr(mmap, "MADV_HUGEPAGE") else 0
    n_before = HUGE if n_huge else 0  # room to begin at a large page
    memory = mmap.mmap(-1, n_bytes + n_before, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE if n_huge else 0
    if n_huge:
        with contextlib.suppress(OSError):  # a kernel built without them
            memory.madvise(mmap.MADV_HUGEPAGE, start, n_huge * HUGE)
    return whole[start : start + n_bytes].view(dtype).view(*shape)


def give_back(numbers: Tensor) -> int:
    """Let the system have the memory of numbers that nobody reads before they are written again.

    Args:
        numbers: They lie in one run.

    Returns:
        How many bytes: those of all whole pages of memory that they fill. Only Linux takes them;
        elsewhere those that were never written take none.
    """
    assert numbers.is_contiguous()
    start, end = numbers.data_ptr(), numbers.data_ptr() + numbers.nbytes
    start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if end <= start:
        return 0
    if sys.platform == "linux":
        if _libc().madvise(start, end - start, mmap.MADV_DONTNEED):
            return 0
    return end - start


@cache
def _libc() -> ctypes.CDLL:
    found = ctypes.CDLL(None)
    found.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found
