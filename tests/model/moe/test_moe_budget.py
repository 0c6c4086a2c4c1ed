"""Slots that stay empty: an expert that does nothing, held to a budget."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moe_models import FULL, LOW_RANK, ids_of, layers_of, model_of

from deepseek.core.errors import ConfigError
from deepseek.model.checkpoint import load_model, save_model
from deepseek.model.moe.config import MoEConfig
from deepseek.model.moe.gate import Routing
from deepseek.model.moe.layer import MoELayer
from deepseek.weights.source import open_weights

HALF = replace(LOW_RANK, n_active_experts=3, budget=1.5)


def mean_experts(layer: MoELayer) -> float:
    counts = layer.take_counts()
    return float(3 * counts[:-1].sum() / counts.sum())


@torch.inference_mode()
def test_before_it_is_started_no_slot_stays_empty() -> None:
    whole = model_of(replace(HALF, budget=None))
    model = model_of(HALF)
    model.load_state_dict(whole.state_dict(), strict=False)
    for layer in layers_of(model):
        assert layer.gate.null is not None
        layer.gate.null.zero_()
    torch.testing.assert_close(model(ids_of(50)), whole(ids_of(50)))
    assert mean_experts(layers_of(model)[0]) == 3


@pytest.mark.parametrize("budget", [0.3, 1.5, 3.0])
@torch.no_grad()
def test_it_starts_at_the_budget_on_a_sample(budget: float) -> None:
    layer = layers_of(model_of(replace(HALF, budget=budget)))[0]
    x = torch.randn(2_000, 128, generator=torch.Generator().manual_seed(0))
    layer.gate.warm_start(x)
    choice = layer.gate(x, Routing(torch.zeros(2_000, dtype=torch.int64)))
    assert mean_experts(layer) == pytest.approx(budget, abs=0.01)
    empty = choice.experts == 8
    assert not choice.weights[empty].any()
    assert bool((choice.weights.sum(1) <= 1.0001).all())
    if budget < 3:
        assert float(choice.weights.sum(1)[empty.any(1)].max()) < 1  # nothing has its share
        # The worst choice is given up first.
        filled = (~empty).int()
        assert bool((filled[:, :-1] >= filled[:, 1:]).all())
        assert len(set(filled.sum(1).tolist())) > 1  # more for some tokens than for others


def test_balancing_holds_the_budget() -> None:
    model = model_of(HALF).train()
    seen = []
    for step in range(60):
        model(ids_of(120, seed=step))
        counts = [layer.take_counts() for layer in layers_of(model)]
        seen.append(float(3 * counts[0][:-1].sum() / counts[0].sum()))
        for layer, own in zip(layers_of(model), counts, strict=True):
            layer.update_balance(own, 0.1 if step < 40 else 0.02)
    assert seen[0] == 3
    assert sum(seen[-5:]) / 5 == pytest.approx(1.5, abs=0.1)


def test_the_gate_learns_when_to_do_nothing_and_is_kept_in_files(tmp_path: Path) -> None:
    model = model_of(HALF).train()
    with torch.no_grad():
        for layer in layers_of(model):
            layer.gate.warm_start(torch.randn(500, 128))
    model(ids_of(60)).square().mean().backward()
    for layer in layers_of(model):
        assert layer.gate.null is not None
        assert layer.gate.null.grad is not None
        assert layer.gate.null.grad.any()
    save_model(model, tmp_path)
    again = load_model(open_weights(tmp_path), dtype=torch.float32, pack=False)
    assert again.config == model.config
    with torch.inference_mode():
        torch.testing.assert_close(again(ids_of(60)), model.eval()(ids_of(60)))
    assert sum(p.numel() for p in model.parameters()) == model.config.n_parameters


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget": 0.0},
        {"budget": 2.5},
        {"budget": 1.0, "routing": "hash"},
        {"budget": 1.0, "parts": 2},
    ],
)
def test_budgets_that_cannot_be_held(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"moe\.(budget|parts)"):
        replace(FULL, **wrong)  # type: ignore[arg-type]


def test_experts_above_the_budget_are_not_computed() -> None:
    """With few tokens only the chosen rows are read: an empty slot costs nothing."""
    moe = MoEConfig(form="full", groups=FULL.groups, n_active_experts=2, budget=1.0)
    layer = layers_of(model_of(moe))[0]
    assert layer.gate.null_bias is not None
    layer.gate.null_bias.fill_(3.0)
    with torch.inference_mode():
        y = layer(torch.randn(1, 3, 128), Routing(torch.zeros(3, dtype=torch.int64)))
    assert not y.any()
    assert layer.take_counts().tolist() == [0] * 8 + [6]
