"""Low-rank parts on models: they add nothing at first, merge to the same, and have PEFT's form."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepseek.adapt.adapter_file import fits_peft, merge_adapter, save_adapter
from deepseek.adapt.lora import LoraSettings, adapted, attach, merge, switch, trained
from deepseek.core.errors import ConfigError
from deepseek.engine.torch_runner import TorchRunner
from deepseek.model.adapter import fit
from deepseek.model.checkpoint import load_model, save_model
from deepseek.model.config import ModelConfig, load_preset
from deepseek.model.moe.config import ExpertGroup, MoEConfig
from deepseek.model.transformer import Transformer
from deepseek.weights.adapter import read_adapter
from deepseek.weights.source import open_weights
from tiny_checkpoint import ROOT, tiny_model

SHAPE = ModelConfig(
    family="qwen2",
    vocab_size=60,
    d_model=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    d_head=8,
    d_ff=48,
    context_window=64,
    attention_bias=True,
    tied_embeddings=False,
)
SETTINGS = LoraSettings(rank=4, alpha=8.0)
IDS = torch.randint(0, 60, (1, 20), generator=torch.Generator().manual_seed(1))


def mixture(form: str) -> ModelConfig:
    sizes = {"low_rank": 4, "slices": 8, "full": 24}
    group = ExpertGroup(name="all", sizes=(sizes[form],) * 4)
    moe = MoEConfig(form=form, groups=(group,), n_active_experts=2, shared=16 * (form == "slices"))
    return replace(SHAPE, moe=moe)


def randomised(model: Transformer) -> Transformer:
    """As if it had been trained."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, parameter in trained(model):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def logits(model: Transformer) -> Tensor:
    with torch.no_grad():
        return model(IDS)


def shapes() -> dict[str, ModelConfig]:
    return {"dense": SHAPE} | {form: mixture(form) for form in ("low_rank", "slices", "full")}


@pytest.mark.parametrize("name", ["dense", "low_rank", "slices", "full"])
def test_it_adds_nothing_at_first_and_merges_to_the_same(name: str) -> None:
    model = tiny_model(shapes()[name])
    before = logits(model)
    attach(model, SETTINGS, torch.float32, seed=3)
    assert (logits(model) - before).abs().max() < 1e-4
    changed = logits(randomised(model))
    assert (changed - before).abs().max() > 0.05
    if name == "dense":
        switch(model, False)
        assert (logits(model) - before).abs().max() < 1e-4
        switch(model, True)
    merge(model, torch.float32)
    assert (logits(model) - changed).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["dense", "slices", "full"])
def test_gradients_reach_all_parts_and_nothing_else(name: str) -> None:
    model = tiny_model(shapes()[name])
    attach(model, SETTINGS, torch.float32, seed=3)
    randomised(model)
    model(IDS).logsumexp(-1).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name
    names = [parameter_name for parameter_name, _ in trained(model)]
    assert all(parameter_name.endswith(("down", "up")) for parameter_name in names)
    assert any("experts" in parameter_name for parameter_name in names) == (name != "dense")


def test_gradients_of_experts_are_those_of_their_definition() -> None:
    """Against full matrices: the chain rule through W = W0 + scale B A, by hand."""
    base = tiny_model(mixture("full"))
    model = tiny_model(mixture("full"))
    attach(model, SETTINGS, torch.float32, seed=3)
    randomised(model)
    model(IDS).square().mean().backward()
    merged = tiny_model(mixture("full"))
    attach(merged, SETTINGS, torch.float32, seed=3)
    randomised(merged)
    merge(merged, torch.float32)
    for parameter in merged.parameters():
        parameter.requires_grad_(True)
    merged(IDS).square().mean().backward()
    del base
    ours = model.blocks[0].feed_forward.experts
    full = merged.blocks[0].feed_forward.experts.gate_up.grad
    n_rows = 2 * 24
    for expert in range(4):
        rows = slice(expert * n_rows, (expert + 1) * n_rows)
        down = ours.gate_up_down[expert * 4 : (expert + 1) * 4]
        up = ours.gate_up_up[rows]
        wanted = SETTINGS.scale * full[rows] @ down.T
        assert torch.allclose(ours.gate_up_up.grad[rows], wanted, atol=1e-5)
        wanted = SETTINGS.scale * up.T @ full[rows]
        found = ours.gate_up_down.grad[expert * 4 : (expert + 1) * 4]
        assert torch.allclose(found, wanted, atol=1e-5)


def test_targets_choose_matrices() -> None:
    model = tiny_model(SHAPE)
    attach(model, replace(SETTINGS, targets=["q_proj", "v_proj"]), torch.float32, seed=3)
    assert [name for name, _ in adapted(model)] == [
        f"model.layers.{n}.self_attn.{p}_proj" for n in range(2) for p in "qv"
    ]
    with pytest.raises(ConfigError, match="q_prj"):
        LoraSettings(targets=["q_prj"])
    with pytest.raises(ConfigError, match="has none of experts"):
        attach(tiny_model(SHAPE), replace(SETTINGS, targets=["experts"]), torch.float32, seed=3)


def test_an_adapter_file_is_what_was_trained(tmp_path: Path) -> None:
    """Served unmerged, and merged by file: the same logits."""
    plain = tiny_model(SHAPE)
    save_model(plain, tmp_path / "base")
    source = open_weights(tmp_path / "base")
    model = load_model(source, dtype=torch.float32, pack=False)
    attach(model, SETTINGS, torch.float32, seed=3)
    wanted = logits(randomised(model))[0]
    save_adapter(model, SETTINGS, tmp_path / "adapter", "base")
    file = read_adapter(tmp_path / "adapter")
    base = load_model(source, dtype=torch.float32)
    runner = TorchRunner(base, dtype=torch.float32, device=torch.device("cpu"))
    runner.use(runner.add_adapter(fit(file, SHAPE)))
    assert (runner.extend(IDS[0].tolist()) - wanted).abs().max() < 1e-4
    merge_adapter(source, file, tmp_path / "merged", torch.float32)
    merged = load_model(open_weights(tmp_path / "merged"), dtype=torch.float32)
    assert (logits(merged)[0] - wanted).abs().max() < 1e-4


def test_experts_have_no_adapter_file(tmp_path: Path) -> None:
    for name, fits in (("full", False), ("low_rank", False), ("dense", True)):
        model = tiny_model(shapes()[name])
        attach(model, SETTINGS, torch.float32, seed=3)
        assert fits_peft(model) == fits, name
    model = tiny_model(shapes()["full"])
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    attach(model, replace(SETTINGS, targets=targets), torch.float32, seed=3)
    assert fits_peft(model)
    model = tiny_model(shapes()["full"])
    attach(model, SETTINGS, torch.float32, seed=3)
    with pytest.raises(ConfigError, match="experts"):
        save_adapter(model, SETTINGS, tmp_path / "a", "base")


def test_a_checkpoint_of_a_run_holds_no_frozen_matrix() -> None:
    model = tiny_model(SHAPE)
    attach(model, SETTINGS, torch.float32, seed=3)
    held = sum(p.numel() for p in model.parameters())
    learned = sum(p.numel() for _, p in trained(model))
    assert held - learned < 1_000  # norms and biases


def test_share_of_a_known_shape() -> None:
    """Rank 16 on all linear layers of Qwen2.5-Coder-1.5B; attention and down alone take less."""
    with torch.device("meta"):
        model = Transformer(load_preset(ROOT / "configs/qwen2.5-coder-1.5b.toml"))
        n_base = sum(p.numel() for p in model.parameters())
        attach(model, LoraSettings(), torch.float32, None)
    n_trained = sum(p.numel() for _, p in trained(model))
    assert n_trained == 18_464_768
    assert 0.011 < n_trained / (n_base + n_trained) < 0.013
