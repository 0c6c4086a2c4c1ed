"""Tensors in large pages are tensors like others."""

import pytest
import torch

from deepseek.ops.huge_pages import HUGE, LEAST, empty


@pytest.mark.parametrize("n", [LEAST // 4, HUGE // 2 + 7])
def test_large_tensors_hold_what_is_written(n):
    shape = (3, n)
    tensors = [empty(shape, torch.bfloat16) for _ in range(4)]
    for number, tensor in enumerate(tensors):
        assert tensor.shape == shape
        assert tensor.is_contiguous()
        tensor.fill_(number)
    for number, tensor in enumerate(tensors):
        assert bool((tensor == number).all())
    ones = tensors[1][1:]
    del tensors
    assert bool((ones == 1).all()), "a view keeps the memory"


def test_small_tensors_take_little():
    small = empty((2, 3), torch.uint8)
    assert small.shape == (2, 3)
    assert small.untyped_storage().nbytes() < HUGE
