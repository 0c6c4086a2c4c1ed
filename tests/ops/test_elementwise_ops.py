"""Norm, rotary positions and activation against their float64 definitions."""

import pytest
import torch

from deepseek.ops.activation import swiglu
from deepseek.ops.norm import rms_norm, rms_norm_reference
from deepseek.ops.rope import apply_rope, rope_table


@pytest.mark.parametrize("shape", [(1, 8), (3, 17, 64), (512, 576), (2, 5, 1536)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype, bound: float) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    x = (3 * torch.randn(shape, generator=generator)).to(dtype)
    weight = torch.rand(shape[-1], generator=generator) + 0.5
    wanted = rms_norm_reference(x.double(), weight.double(), 1e-6)
    got = rms_norm(x, weight, 1e-6)
    assert got.dtype is dtype
    assert (got.double() - wanted).abs().max() < bound


def test_rms_norm_of_zeros_and_of_large_numbers() -> None:
    weight = torch.ones(4)
    assert torch.equal(rms_norm(torch.zeros(2, 4), weight, 1e-6), torch.zeros(2, 4))
    large = torch.full((1, 4), 1e15)
    torch.testing.assert_close(rms_norm(large, weight, 1e-6), torch.ones(1, 4))


@pytest.mark.parametrize("theta", [1e4, 1e5, 1e6])
def test_rope_is_a_rotation_of_complex_pairs(theta: float) -> None:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 3, 40, 64, generator=generator, dtype=torch.float64)
    positions = torch.arange(100, 140)
    got = apply_rope(x, *rope_table(positions, 64, theta, torch.float64))
    pairs = torch.complex(x[..., :32], x[..., 32:])
    speeds = theta ** (-torch.arange(32, dtype=torch.float64) / 32)
    angles = positions[:, None] * speeds
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(got, torch.cat((turned.real, turned.imag), -1))


def test_rope_sees_only_distances() -> None:
    generator = torch.Generator().manual_seed(8)
    q, k = torch.randn(2, 1, 1, 1, 64, generator=generator, dtype=torch.float64)

    def product(at_q: int, at_k: int) -> float:
        turned = [
            apply_rope(x, *rope_table(torch.tensor([at]), 64, 1e4, torch.float64))
            for x, at in ((q, at_q), (k, at_k))
        ]
        return float((turned[0] * turned[1]).sum())

    assert product(5, 2) == pytest.approx(product(1_005, 1_002), abs=1e-9)
    assert product(5, 2) != pytest.approx(product(5, 3), abs=1e-3)


def test_rope_angles_stay_exact_far_out_in_bfloat16() -> None:
    """The table is rounded, not the angles: position 100,000 has no bfloat16 of its own."""
    positions = torch.tensor([100_000])
    cos, _ = rope_table(positions, 64, 1e6, torch.bfloat16)
    exact, _ = rope_table(positions, 64, 1e6, torch.float64)
    assert (cos.double() - exact).abs().max() < 1e-2


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_swiglu(needs_gradient: bool) -> None:
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(3, 5, 14, generator=generator, requires_grad=needs_gradient)
    kept = x.detach().clone()
    gate, up = kept.double().chunk(2, -1)
    wanted = gate / (1 + (-gate).exp()) * up
    assert (swiglu(x).double() - wanted).abs().max() < 1e-6
    assert torch.equal(x.detach(), kept)


def test_gradients_of_what_keeps_less_than_autograd_would() -> None:
    """Of the norm with a weight that does not learn, and of the activation."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.rand(8, generator=generator, dtype=torch.float64) + 0.5
    dy = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    (wanted,) = torch.autograd.grad((rms_norm_reference(x, weight, 1e-6) * dy).sum(), x)
    (found,) = torch.autograd.grad((rms_norm(x, weight, 1e-6) * dy).sum(), x)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    gate, up = x.chunk(2, -1)
    half = dy[..., :4]
    (wanted,) = torch.autograd.grad((torch.nn.functional.silu(gate) * up * half).sum(), x)
    (found,) = torch.autograd.grad((swiglu(x) * half).sum(), x)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
