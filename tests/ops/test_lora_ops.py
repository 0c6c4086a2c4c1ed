"""The written-out passes of an adapted layer against its definition and autograd."""

import pytest
import torch
from torch import Tensor

from deepseek.core.codes import Codes
from deepseek.ops import native
from deepseek.ops.linear import QuantisedWeight
from deepseek.ops.lora import lora_linear, lora_reference
from deepseek.ops.native import NativeMatrix

ROWS, N_IN, N_OUT, RANK, SCALE = 11, 24, 40, 3, 1.7
LAYOUTS = {
    "whole": [slice(0, 40)],
    "three": [slice(0, 16), slice(16, 28), slice(28, 40)],
    "outer two": [slice(0, 16), slice(28, 40)],
    "inner one": [slice(16, 28)],
}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def pair_of(blocks: list[slice]) -> tuple[Tensor, Tensor]:
    n_rows = sum(block.stop - block.start for block in blocks)
    down, up = numbers(len(blocks) * RANK, N_IN, seed=3), numbers(n_rows, RANK, seed=4)
    return down.requires_grad_(), up.requires_grad_()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_values_and_gradients(layout: str, has_bias: bool) -> None:
    blocks = LAYOUTS[layout]
    weight, bias = numbers(N_OUT, N_IN, seed=1), numbers(N_OUT, seed=2) if has_bias else None
    found = []
    for fast in (True, False):
        x = numbers(ROWS, N_IN).requires_grad_()
        pair = pair_of(blocks)
        if fast:
            y = lora_linear(x, weight, bias, pair, blocks, SCALE, torch.float64)
        else:
            y = lora_reference(x, weight, bias, pair, blocks, SCALE)
        (y * numbers(ROWS, N_OUT, seed=9)).sum().backward()
        found.append((y.detach(), x.grad, pair[0].grad, pair[1].grad))
    for ours, wanted in zip(*found, strict=True):
        assert torch.allclose(ours.double(), wanted, rtol=1e-6, atol=1e-6)


def test_nothing_is_computed_for_what_needs_no_gradient() -> None:
    blocks = LAYOUTS["three"]
    weight, x = numbers(N_OUT, N_IN, seed=1), numbers(ROWS, N_IN)
    pair = pair_of(blocks)
    y = lora_linear(x, weight, None, pair, blocks, SCALE, torch.float64)
    y.sum().backward()
    assert weight.grad is None
    assert x.grad is None
    assert pair[0].grad is not None


def test_bfloat16_is_near() -> None:
    blocks = LAYOUTS["three"]
    weight, x = numbers(N_OUT, N_IN, seed=1), numbers(2, 5, N_IN)
    down, up = (p.detach().float().requires_grad_() for p in pair_of(blocks))
    wanted = lora_reference(x.flatten(0, 1), weight, None, pair_of(blocks), blocks, SCALE)
    low = weight.bfloat16()
    y = lora_linear(x.float(), low, None, (down, up), blocks, SCALE, torch.bfloat16)
    assert y.shape == (2, 5, N_OUT)
    assert y.dtype is torch.bfloat16
    assert (y.flatten(0, 1) - wanted).abs().max() < 0.03 * wanted.abs().max()
    y.float().sum().backward()
    assert down.grad is not None
    assert down.grad.dtype is torch.float32


@pytest.mark.skipif(not native.is_available(), reason="needs the native library")
def test_quantised_weights_are_used_as_they_are() -> None:
    n_in, n_out = 64, 32
    generator = torch.Generator().manual_seed(0)
    matrix = NativeMatrix(8, n_out, n_in)
    codes = torch.randint(0, 256, (n_out, n_in), generator=generator).to(torch.uint8)
    matrix.put(0, Codes(8, codes, torch.rand(n_out, n_in // 32, generator=generator), None))
    quantised = QuantisedWeight((matrix,))
    dense = quantised.unpack()
    results = []
    for weight in (quantised, dense):
        x = torch.randn(7, n_in, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = lora_linear(x, weight, None, None, [], 1.0, torch.float32)
        y.square().sum().backward()
        results.append((y.detach(), x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
