"""Tensors in large pages are tensors like others."""

import torch

from deepseek.ops.huge_pages import HUGE, empty


def test_large_tensors_hold_what_is_written():
    shape = (3, HUGE // 2 + 7)
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
