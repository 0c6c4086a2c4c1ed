"""FP8 in emulation beside its definition, number by number."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.ops.float8 import (
    BLOCKS,
    COLUMNS,
    ROWS,
    float8_linear,
    quantise,
    quantise_reference,
    scale_of,
)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Of very different sizes, with zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x = x * 10 ** torch.randint(-6, 4, shape, generator=generator)
    return x * (torch.rand(shape, generator=generator) > 0.1)


@pytest.mark.parametrize("tile", [ROWS, COLUMNS, BLOCKS, (2, 3)])
@pytest.mark.parametrize("shape", [(3, 5), (130, 257), (1, 128)])
def test_rounding_is_the_definition(tile: tuple[int, int], shape: tuple[int, int]) -> None:
    x = numbers(*shape)
    found = quantise(x, tile)
    assert found.codes.dtype is torch.float8_e4m3fn
    assert torch.equal(found.values(), quantise_reference(x, tile))
    assert torch.equal(found.values(torch.bfloat16).float(), found.values()), "exact in bfloat16"


@given(st.floats(min_value=2.0**-100, max_value=2.0**100, width=32))
@settings(max_examples=200, deadline=None)
def test_scales_are_the_least_powers_of_two(largest: float) -> None:
    scale = float(scale_of(torch.tensor([largest])))
    assert float(torch.frexp(torch.tensor(scale)).mantissa) == 0.5
    assert scale * 224 < largest <= scale * 448


def test_an_empty_tile_and_one_that_is_not_finite() -> None:
    assert float(scale_of(torch.zeros(1))) == 1.0
    x = torch.zeros(2, 130)
    assert torch.equal(quantise(x, ROWS).values(), x)
    x[0, 0] = torch.inf
    assert not torch.isfinite(quantise(x, ROWS).values()[0, 0]), "a loss must show it"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_three_products_take_rounded_factors(dtype: torch.dtype) -> None:
    x, weight = numbers(5, 7, 200, seed=1), numbers(150, 200, seed=2)
    x, weight = x.clamp(-3, 3), weight.clamp(-3, 3)
    bias, aim = numbers(150, seed=3).clamp(-1, 1), numbers(5, 7, 150, seed=4).clamp(-2, 2)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        out = float8_linear(*leaves)
    assert out.dtype is dtype
    out.backward(aim.to(dtype))
    a, g = quantise_reference(x.flatten(0, 1), ROWS), aim.to(dtype).float().flatten(0, 1)
    w = quantise_reference(weight, BLOCKS)
    wanted = (a.double() @ w.double().T + bias).view(out.shape)
    to_x = (quantise_reference(g, ROWS).double() @ w.double()).view(x.shape)
    columns = quantise_reference(g, COLUMNS), quantise_reference(a, COLUMNS)
    to_weight = columns[0].double().T @ columns[1].double()
    near = {"rtol": 1e-5, "atol": 1e-4} if dtype is torch.float32 else {"rtol": 1e-2, "atol": 0.1}
    torch.testing.assert_close(out.double(), wanted, **near)
    torch.testing.assert_close(leaves[0].grad.double(), to_x, **near)
    # Sums over tokens are in float32 whatever autocast wants.
    torch.testing.assert_close(leaves[1].grad.double(), to_weight, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(leaves[2].grad, g.sum(0), **near)
