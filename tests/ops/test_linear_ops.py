"""Packed products against plain ones and against float64."""

import pytest
import torch

from deepseek.ops.linear import PackedWeight, can_pack, linear, pack

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
SHAPES = ((1, 64, 96), (5, 100, 33), (64, 576, 1_536), (513, 128, 384))  # rows, in, out


def random_case(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, n_in, n_out = shape
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(rows, n_in, generator=generator)
    weight = torch.randn(n_out, n_in, generator=generator) / n_in**0.5
    bias = torch.randn(n_out, generator=generator)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


def packed_or_skip(weight: torch.Tensor) -> PackedWeight:
    if not can_pack(weight):
        pytest.skip(f"oneDNN packs no {weight.dtype} on this machine")
    return pack(weight)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("is_packed", [False, True])
def test_equals_float64(
    shape: tuple[int, int, int], dtype: torch.dtype, has_bias: bool, is_packed: bool
) -> None:
    x, weight, bias = random_case(shape, dtype)
    wanted = x.double() @ weight.double().T + (bias.double() if has_bias else 0)
    used = packed_or_skip(weight) if is_packed else weight
    got = linear(x, used, bias if has_bias else None)
    assert got.dtype is dtype
    # bfloat16 rounds the result to 8 bits: the bound grows with its size.
    assert ((got.double() - wanted).abs() / (1 + wanted.abs())).max() < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS)
def test_packing_loses_nothing(dtype: torch.dtype) -> None:
    _, weight, _ = random_case((1, 100, 33), dtype)
    packed = packed_or_skip(weight)
    assert torch.equal(packed.unpack(), weight)
    assert packed.n_bytes == weight.nbytes
    assert packed.shape == (33, 100)


def test_leading_axes_are_kept() -> None:
    x, weight, bias = random_case((6, 64, 96), torch.float32)
    used = packed_or_skip(weight)
    torch.testing.assert_close(
        linear(x.view(2, 3, 64), used, bias), linear(x, weight, bias).view(2, 3, 96)
    )


def test_what_cannot_be_packed() -> None:
    assert not can_pack(torch.zeros(4, 4, dtype=torch.float64))
    assert not can_pack(torch.zeros(4, 4, device="meta"))
