"""Mixtures of experts in the trainer: domains of sources, balance, groups trained alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import SHAPE, some_documents, tiny_trainer

from deepseek.adapt.isolation import kept_biases
from deepseek.core.errors import ConfigError
from deepseek.model.checkpoint import load_model
from deepseek.model.config import ModelConfig
from deepseek.model.moe.config import ExpertGroup, MoEConfig
from deepseek.model.moe.load import mixtures_of
from deepseek.model.transformer import Transformer
from deepseek.train.config import load_training_config
from deepseek.train.experts import domains_of, group_mask
from deepseek.train.run import prepare_run
from deepseek.weights.source import open_weights

GROUPS = (
    ExpertGroup(name="general", sizes=(2, 3), always=True),
    ExpertGroup(name="text", sizes=(2, 2)),
    ExpertGroup(name="code", sizes=(3, 2, 2)),
)
MIXTURE = replace(SHAPE, moe=MoEConfig(form="low_rank", groups=GROUPS, balance_loss=1e-3))
ROOT = Path(__file__).parents[2]
CONFIG = """
[run]
window = 64
batch = 2
micro = 1
[model]
preset = "{root}/configs/r1-tiny-moe.toml"
[tokenizer]
vocab_size = 512
sample = 100_000
[sources.prose]
paths = ["{root}/README.md", "{root}/CONTRIBUTING.md"]
domain = "text"
[sources.code]
paths = ["{root}/src/deepseek/core"]
domain = "code"
[[stages]]
name = "only"
tokens = 512
weights = {{ prose = 1, code = 1 }}
[checkpoint]
every = 2
[trainable]
groups = ["code"]
"""


def mixture(shape: ModelConfig = MIXTURE) -> Transformer:
    model = Transformer(shape)
    model.initialise(3)
    return model


def bits(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_tokens_go_to_the_experts_of_their_sources_domain(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, model=mixture(), domains=[1, 2])
    layers = mixtures_of(trainer.model)
    seen: list[torch.Tensor] = []
    for layer in layers:
        layer.update_balance = lambda counts, rate: seen.append(counts.clone())  # type: ignore[method-assign]
    trainer.run()
    counts = torch.stack(seen).sum(0)
    assert counts.min() > 0
    # Windows of the two sources are half and half or one to three: of every 4, some of each.
    assert counts.sum() == 2 * len(seen) * 4 * 32
    only = tiny_trainer(tmp_path / "other", model=mixture(), domains=[1, 1])
    loads: list[torch.Tensor] = []
    for layer in mixtures_of(only.model):
        layer.update_balance = lambda counts, rate: loads.append(counts.clone())  # type: ignore[method-assign]
    only.run()
    assert (torch.stack(loads).sum(0)[4:] == 0).all(), "no text goes to experts of code"


def test_balancing_moves_biases_and_a_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = tiny_trainer(tmp_path, model=mixture(), domains=[1, 2], out=tmp_path / "whole")
    before = mixtures_of(whole.model)[0].gate.bias.clone()
    whole.run()
    assert not torch.equal(before, mixtures_of(whole.model)[0].gate.bias)
    parts = tiny_trainer(tmp_path, model=mixture(), domains=[1, 2], out=tmp_path / "parts")
    parts.run(lambda row: setattr(parts, "stop_requested", row["step"] == 2))  # after the next
    again = tiny_trainer(tmp_path, model=mixture(), domains=[1, 2], out=tmp_path / "parts")
    assert again.resume()
    assert again.step == 3
    again.run()
    theirs = bits(whole.model)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in bits(again.model).items())


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_group_that_is_trained_alone_changes_no_other_bit(tmp_path: Path, optimiser: str) -> None:
    model = mixture()
    with torch.no_grad():  # experts that say something, so that weight decay has something to do
        for name, parameter in model.named_parameters():
            if "experts" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    before = bits(model)
    mask = group_mask(model, ["code"])
    trainer = tiny_trainer(
        tmp_path,
        model=model,
        domains=[1, 2],
        mask=mask,
        kept=kept_biases(model, ["code"]),
        optimiser={"kind": optimiser, "decay": 0.1},
    )
    trainer.run()
    changed = set()
    for name, tensor in bits(model).items():
        rows = mask.parts.get(name)
        is_other = torch.ones(len(tensor), dtype=torch.bool)
        if name.endswith("gate.bias"):
            is_other[4:] = False
        elif rows is not None:
            is_other[rows] = False
        assert torch.equal(tensor[is_other], before[name][is_other]), name
        if not torch.equal(tensor, before[name]):
            changed.add(name.rsplit(".", 1)[-1] if "experts" in name else name[-11:])
    assert "gate.weight" in changed
    assert len(changed) >= 3


def test_from_a_config_to_a_folder_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    file = tmp_path / "run.toml"
    file.write_text(CONFIG.format(root=ROOT))
    run = prepare_run(load_training_config(file), tmp_path / "out")
    before = bits(run.trainer.model)
    assert run.train()
    folder = run.finish().model
    assert folder is not None
    model = load_model(open_weights(folder), dtype=torch.float32, pack=False)
    after = bits(run.trainer.model)
    assert all(torch.equal(tensor, after[name]) for name, tensor in bits(model).items())
    dense = [name for name in before if "feed_forward" not in name]
    assert dense
    assert all(torch.equal(before[name], after[name]) for name in dense)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    some_documents(tmp_path, "x", 0)
    assert domains_of(MIXTURE, {"a": None, "b": None}) is None
    assert domains_of(MIXTURE, {"a": "code", "b": None}) == [2, -1]
    with pytest.raises(ConfigError, match="source a has a domain"):
        domains_of(SHAPE, {"a": "code"})
    with pytest.raises(ConfigError, match="no group of experts 'coed'"):
        domains_of(MIXTURE, {"a": "coed"})
    file = tmp_path / "run.toml"
    file.write_text(CONFIG.format(root=ROOT) + 'only = ["embedding.weight"]\n')
    with pytest.raises(ConfigError, match="both only and groups"):
        load_training_config(file)
