"""Every way to compute a mixture against its definition, and gradients, on random shapes."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from deepseek.ops.moe.gate import Choice, choose, chosen_scores, dense_gates, normalised
from deepseek.ops.moe.low_rank import low_rank_few, low_rank_masked, low_rank_reference, spread
from deepseek.ops.moe.neurons import (
    neurons,
    neurons_few,
    neurons_masked,
    neurons_reference,
    neurons_sorted,
)

CASES = range(12)
SCALE = 2.0


@dataclass
class Case:
    """A random mixture: experts of any size, some that get no token, slots that stay empty."""

    x: Tensor
    choice: Choice
    sizes: list[int]
    inner: Tensor
    """A product that something is added to."""
    draw: Callable[..., Tensor]

    @property
    def n_experts(self) -> int:
        return len(self.sizes)


def case_of(seed: int, dtype: torch.dtype = torch.float64) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    n_experts, n_tokens, d_in, d_out = number(1, 17), number(0, 9), number(1, 40), number(1, 40)
    if seed < 3:
        n_tokens = (1, 64, 7)[seed]
    sizes = [number(1, 12) for _ in range(n_experts)]
    n_active = (0, n_experts)[seed % 2] if seed % 4 < 2 else number(1, n_experts)
    scores = draw(n_tokens, n_experts).sigmoid()
    bias = draw(n_experts)
    if n_experts > 1:
        bias[0] = -100.0  # never chosen, unless all are
    allowed = draw(n_tokens, n_experts) > 0 if seed % 3 == 0 else None
    experts = choose(scores, bias, n_active, allowed)
    choice = Choice(experts, normalised(chosen_scores(scores, experts)))
    return Case(draw(n_tokens, d_in), choice, sizes, draw(n_tokens, d_out), draw)


def low_rank_matrices(case: Case) -> tuple[Tensor, Tensor]:
    total = sum(case.sizes)
    return case.draw(total, case.x.shape[1]), case.draw(total, case.inner.shape[1])


def swiglu_matrices(case: Case) -> tuple[Tensor, Tensor]:
    total, width = sum(case.sizes), case.x.shape[1]
    return case.draw(2 * total, width), case.draw(total, width)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", CASES)
def test_low_rank_paths_equal_the_definition(seed: int, dtype: torch.dtype) -> None:
    case = case_of(seed, dtype)
    matrices = low_rank_matrices(case)
    wanted = low_rank_reference(case.x, case.inner, case.choice, case.sizes, matrices, SCALE)
    weights = spread(dense_gates(case.choice, case.n_experts), case.sizes, SCALE, dtype)
    tolerance = {"atol": 1e-5 * max(1.0, float(wanted.abs().max())) if wanted.numel() else 0.0}
    masked = low_rank_masked(case.x, case.inner.clone(), weights, matrices)
    torch.testing.assert_close(masked, wanted, rtol=0, **tolerance)
    few = low_rank_few(case.x, case.inner.clone(), case.choice, case.sizes, matrices, SCALE)
    torch.testing.assert_close(few, wanted, rtol=0, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("way", [neurons_masked, neurons_sorted, neurons_few, neurons])
@pytest.mark.parametrize("seed", CASES)
@torch.no_grad()
def test_neuron_paths_equal_the_definition(
    seed: int, way: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    case = case_of(seed, dtype)
    matrices = swiglu_matrices(case)
    wanted = neurons_reference(case.x, case.choice, case.sizes, matrices)
    atol = 1e-5 * max(1.0, float(wanted.abs().max())) if wanted.numel() else 0.0
    found = way(case.x, case.choice, case.sizes, matrices)
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("way", [neurons_masked, neurons_sorted, neurons])
@pytest.mark.parametrize("seed", CASES)
def test_gradients_of_neuron_paths(seed: int, way: Callable[..., Tensor]) -> None:
    case = case_of(seed)
    leaves = [case.x, *swiglu_matrices(case), case.choice.weights.clone()]

    def gradients(path: Callable[..., Tensor]) -> list[Tensor]:
        x, gate_up, down, weights = (leaf.detach().clone().requires_grad_() for leaf in leaves)
        y = path(x, Choice(case.choice.experts, weights), case.sizes, (gate_up, down))
        if y.requires_grad:
            (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).cos()).sum().backward()
        found = (x, gate_up, down, weights)
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in found]

    for found, wanted in zip(gradients(way), gradients(neurons_reference), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("seed", CASES)
def test_gradients_of_the_masked_low_rank_path(seed: int) -> None:
    case = case_of(seed)
    leaves = [case.x, *low_rank_matrices(case), case.choice.weights.clone()]

    def gradients(is_fast: bool) -> list[Tensor]:
        x, down, up, weights = (leaf.detach().clone().requires_grad_() for leaf in leaves)
        choice, base = Choice(case.choice.experts, weights), case.inner.clone()
        if is_fast:
            wide = spread(dense_gates(choice, case.n_experts), case.sizes, SCALE, x.dtype)
            y = low_rank_masked(x, base, wide, (down, up))
        else:
            y = low_rank_reference(x, base, choice, case.sizes, (down, up), SCALE)
        if y.requires_grad:
            y.square().sum().backward()
        found = (x, down, up, weights)
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in found]

    for found, wanted in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(found, wanted)


def test_sorting_gives_the_same_bits_every_time() -> None:
    case = case_of(1, torch.float32)
    matrices = swiglu_matrices(case)
    runs = [neurons_sorted(case.x, case.choice, case.sizes, matrices) for _ in range(3)]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_tokens", [1, 3, 40])
def test_experts_that_say_nothing_change_no_bit(dtype: torch.dtype, n_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n_tokens, 64, generator=generator).to(dtype)
    y = torch.randn(n_tokens, 96, generator=generator).to(dtype)
    sizes = [4, 8, 16, 4]
    matrices = torch.randn(32, 64, generator=generator).to(dtype), torch.zeros(32, 96, dtype=dtype)
    scores = torch.rand(n_tokens, 4, generator=generator)
    experts = choose(scores, torch.zeros(4), 2)
    choice = Choice(experts, normalised(chosen_scores(scores, experts)))
    weights = spread(dense_gates(choice, 4), sizes, SCALE, dtype)
    assert torch.equal(low_rank_masked(x, y.clone(), weights, matrices), y)
    assert torch.equal(low_rank_few(x, y.clone(), choice, sizes, matrices, SCALE), y)
