"""Fewer experts where they suffice, in training: held to a budget, reported, learned."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import SHAPE, tiny_plan, tiny_trainer

from deepseek.model.moe.config import ExpertGroup, MoEConfig
from deepseek.model.moe.load import mixtures_of
from deepseek.model.transformer import Transformer
from deepseek.train.config import load_training_config
from deepseek.train.metrics import read_metrics
from deepseek.train.prepare import start_budgets
from deepseek.train.run import prepare_run

ROOT = Path(__file__).parents[2]
MOE = MoEConfig(
    form="full", shared=32, budget=1.5, groups=(ExpertGroup(name="general", sizes=(8,) * 8),)
)
CONFIG = """
[run]
window = 64
batch = 4
micro = 2
[model]
d_model = 32
n_layers = 2
n_heads = 2
n_kv_heads = 1
d_head = 16
d_ff = 64
context_window = 64
family = "llama"
[model.moe]
form = "full"
shared = 16
n_active_experts = 2
budget = 1.5
[[model.moe.groups]]
name = "general"
sizes = [16, 16, 16, 16]
[tokenizer]
vocab_size = 300
sample = 50_000
[sources.prose]
paths = ["{root}/src/deepseek/core"]
[[stages]]
name = "only"
tokens = 1_024
weights = {{ prose = 1 }}
[evaluation]
every = 5
held_out = 0.3
tokens = 400
[checkpoint]
every = 5
"""


def test_a_fresh_model_begins_near_its_budget_and_is_held_there(tmp_path: Path) -> None:
    model = Transformer(replace(SHAPE, moe=MOE))
    model.initialise(0)
    start_budgets(model, 0)
    trainer = tiny_trainer(tmp_path, model=model, plan=tiny_plan(60))
    trainer.run()
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    used = [row["experts"]["per_token"] for row in rows[1:]]
    assert used[0] == pytest.approx(1.5, abs=0.25)
    assert sum(used[-10:]) / 10 == pytest.approx(1.5, abs=0.12)
    last = rows[-1]["experts_held_out"]
    assert last["per_token"] == pytest.approx(1.5, abs=0.25)
    assert last["work"] == pytest.approx(last["per_token"] / 2, abs=1e-6)  # of one size each
    assert len(last["per_token_by_layer"]) == 2
    assert 0 < last["u_busy_worst"] <= last["u_busy"] <= 1


def test_a_run_from_a_file_trains_with_a_budget_and_reports_it(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(CONFIG.format(root=ROOT))
    run = prepare_run(load_training_config(file), tmp_path / "out")
    layers = mixtures_of(run.trainer.model)
    before = [layer.gate.null_bias.clone() for layer in layers if layer.gate.null_bias is not None]
    run.train()
    after = [layer.gate.null_bias for layer in layers if layer.gate.null_bias is not None]
    assert len(before) == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    outcome = run.finish()
    page = outcome.report.read_text(encoding="utf-8")
    assert "Experts of a token" in page
    assert "per_token, held out" in page
    rows = read_metrics(tmp_path / "out/metrics.jsonl")
    assert rows[0]["experts_held_out"]["per_token"] < 2
    assert outcome.model is not None
    assert (outcome.model / "config.json").exists()


def test_a_gate_of_low_rank_experts_learns_from_the_second_step_on(tmp_path: Path) -> None:
    """At first experts add nothing, whatever the gate says; one step of theirs is enough."""
    moe = replace(MOE, form="low_rank", shared=0, budget=None)
    model = Transformer(replace(SHAPE, moe=moe))
    model.initialise(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(64, (2, 32), generator=torch.Generator().manual_seed(0))
    norms = []
    for _ in range(3):
        optimiser.zero_grad()
        logits = model(ids[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        layer = mixtures_of(model)[0]
        norms.append(float(layer.gate.weight.grad.norm()))  # type: ignore[union-attr]
        assert isinstance(layer.experts.down_b.grad, torch.Tensor)
        assert layer.experts.down_b.grad.any()
        optimiser.step()
    assert norms[0] == 0
    assert norms[1] > 0
    assert norms[2] > 1.2 * norms[1]
