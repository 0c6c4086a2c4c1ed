"""The choice of experts against a slow reading of its rules; groups, hashes, balance, losses."""

import pytest
import torch
from torch import Tensor

from deepseek.ops.moe.balance import (
    balance_loss,
    balanced_bias,
    expert_counts,
    quantile_bias,
    z_loss,
)
from deepseek.ops.moe.gate import (
    Choice,
    best_groups,
    choose,
    chosen_scores,
    dense_gates,
    gate_logits,
    hashed,
    normalised,
)

BOUNDS = ((0, 3), (3, 4), (4, 9), (9, 11))


def random_scores(seed: int, n_tokens: int = 40, n_experts: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_tokens, n_experts, generator=generator).sigmoid()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_active", [0, 1, 2, 5, 11])
def test_choices_and_weights_follow_their_definition(seed: int, n_active: int) -> None:
    scores, bias = random_scores(seed), random_scores(seed + 100, 1)[0] - 0.5
    allowed = random_scores(seed + 200) > 0.6 if seed % 2 else None
    experts = choose(scores, bias, n_active, allowed)
    weights = normalised(chosen_scores(scores, experts))
    for token in range(len(scores)):
        may = [e for e in range(11) if allowed is None or allowed[token, e]]
        best = sorted(may, key=lambda e: -float(scores[token, e] + bias[e]))[:n_active]
        assert experts[token].tolist() == best + [11] * (n_active - len(best))
        total = sum(float(scores[token, e]) for e in best)
        wanted = [float(scores[token, e]) / total for e in best]
        assert weights[token].tolist() == pytest.approx(wanted + [0] * (n_active - len(best)))
    gates = dense_gates(Choice(experts, weights), 11)
    has_expert = (experts < 11).any(1)
    torch.testing.assert_close(gates.sum(1), has_expert.float())
    assert int((gates > 0).sum()) == int((experts < 11).sum())


def test_gate_computes_in_float32() -> None:
    x, weight = torch.randn(5, 8).bfloat16(), torch.randn(3, 8).bfloat16()
    logits = gate_logits(x, weight)
    assert logits.dtype is torch.float32
    torch.testing.assert_close(logits, x.float() @ weight.float().T)


@pytest.mark.parametrize("n_groups", [0, 1, 2, 4])
@pytest.mark.parametrize("always", [(), (0,), (0, 3)])
def test_best_groups_are_those_of_the_two_best_experts(
    n_groups: int, always: tuple[int, ...]
) -> None:
    scores = random_scores(5)
    allowed = best_groups(scores, BOUNDS, n_groups, always)
    for token in range(len(scores)):
        worth = {
            g: sum(sorted(scores[token, a:b].tolist())[-2:])
            for g, (a, b) in enumerate(BOUNDS)
            if g not in always
        }
        chosen = {*sorted(worth, key=lambda g: -worth[g])[:n_groups], *always}
        wanted = [e for g, (a, b) in enumerate(BOUNDS) for e in range(a, b) if g in chosen]
        assert allowed[token].nonzero()[:, 0].tolist() == wanted


def test_hashes_spread_tokens_and_depend_on_nothing_but_the_id() -> None:
    ids = torch.arange(20_000)
    scores = hashed(ids, 16)
    assert torch.equal(hashed(ids.flip(0), 16).flip(0), scores)
    assert 0.5 <= float(scores.min()) <= float(scores.max()) <= 1
    counts = expert_counts(choose(scores, torch.zeros(16), 2), 16)
    assert int(counts.sum()) == 40_000
    # Sampling alone gives 2 % of deviation; four of these are far.
    assert float((counts / 2_500 - 1).abs().max()) < 0.08


def test_balancing_moves_biases_against_the_load_group_by_group() -> None:
    counts = torch.tensor([10, 0, 2, 7, 4, 4, 4, 4, 4, 0, 0])
    bias = torch.full((11,), 0.5)
    moved = balanced_bias(bias, counts, BOUNDS, 0.01)
    # Mean load 4; signs -1 1 1 of mean 1/3.
    assert (moved[:3] - 0.5).tolist() == pytest.approx([-0.01333, 0.00667, 0.00667], abs=1e-4)
    assert torch.equal(moved[3:], bias[3:])
    for first, end in BOUNDS:
        assert float(moved[first:end].mean()) == pytest.approx(0.5)


def test_balancing_ends_an_unequal_load() -> None:
    scores = random_scores(1, 4_000) + torch.linspace(0, 0.5, 11)
    whole = ((0, 11),)
    before = expert_counts(choose(scores, torch.zeros(11), 2), 11)
    bias = torch.zeros(11)
    for _ in range(200):
        bias = balanced_bias(bias, expert_counts(choose(scores, bias, 2), 11), whole, 0.005)
    after = expert_counts(choose(scores, bias, 2), 11)
    mean = 8_000 / 11
    assert float(before.max()) > 2 * mean
    assert float(after.max()) < 1.1 * mean
    assert float(after.min()) > 0.9 * mean


def test_quantiles_start_balanced() -> None:
    scores = random_scores(2, 4_000) + torch.linspace(0, 0.5, 11)
    bias = quantile_bias(scores, 2 / 11)
    above = ((scores + bias) > 0).float().mean(0)
    torch.testing.assert_close(above, torch.full((11,), 2 / 11), atol=0.002, rtol=0)
    counts = expert_counts(choose(scores, bias, 2), 11)
    assert float(counts.max()) < 1.35 * 8_000 / 11


def test_balance_loss_is_one_when_all_are_alike_and_more_when_not() -> None:
    even = torch.full((6, 4), 0.5)
    assert float(balance_loss(even, torch.tensor([3, 3, 3, 3]))) == pytest.approx(1.0)
    uneven = torch.tensor([[0.9, 0.1, 0.1, 0.1]]).repeat(6, 1).requires_grad_()
    loss = balance_loss(uneven, torch.tensor([6, 2, 2, 2]))
    # Loads 1/2 1/6 1/6 1/6, shares 3/4 1/12 1/12 1/12.
    assert float(loss.detach()) == pytest.approx(4 * (0.375 + 3 / 72))
    loss.backward()
    assert uneven.grad is not None
    assert bool((uneven.grad[:, 0] > 0).all())  # less for the one that has most
    assert bool((uneven.grad[:, 1:] < 0).all())


def test_balance_loss_sees_allowed_experts_only() -> None:
    scores = torch.full((2, 4), 0.5)
    allowed = torch.tensor([[True, True, False, False]] * 2)
    assert float(balance_loss(scores, torch.tensor([2, 2, 0, 0]), allowed)) == pytest.approx(2.0)


def test_z_loss() -> None:
    logits = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    ln2 = 0.693147
    assert float(z_loss(logits)) == pytest.approx((ln2**2 + (1 + ln2) ** 2) / 2, abs=1e-5)
