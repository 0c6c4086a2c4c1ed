"""The `[moe]` part of presets and checkpoints, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from moe_models import FORMS, FULL, LOW_RANK, config_of

from deepseek.core.errors import ConfigError
from deepseek.model.config import ModelConfig, load_preset
from deepseek.model.moe.config import MoEConfig
from deepseek.model.transformer import Transformer
from tiny_checkpoint import ROOT

TINY = (ROOT / "configs/r1-tiny.toml").read_text(encoding="utf-8")
TABLE: dict[str, Any] = {
    "form": "low_rank",
    "groups": [{"name": "general", "sizes": [4, 4]}, {"name": "code", "sizes": [8]}],
}


@pytest.mark.parametrize("moe", FORMS.values(), ids=FORMS)
def test_parameters_are_counted_and_configs_survive_checkpoints(moe: MoEConfig) -> None:
    config = config_of(moe)
    with torch.device("meta"):
        model = Transformer(config)
    assert config.n_parameters == sum(p.numel() for p in model.parameters())
    assert ModelConfig.from_checkpoint(config.to_checkpoint()) == config
    with pytest.raises(ConfigError, match="no Hugging Face architecture"):
        config.to_hf()
    with pytest.raises(ConfigError, match="model type is 'deepseek_mixture'"):
        ModelConfig.from_hf(config.to_checkpoint())


def test_a_dense_config_is_hugging_faces() -> None:
    config = replace(config_of(LOW_RANK), moe=None)
    assert config.to_checkpoint() == config.to_hf()
    assert ModelConfig.from_checkpoint(config.to_hf()) == config


def test_groups_have_bounds_and_names() -> None:
    moe = MoEConfig.from_table(TABLE)
    assert (moe.n_experts, moe.sizes, moe.bounds) == (3, (4, 4, 8), ((0, 2), (2, 3)))
    assert moe.group("code") == 1
    with pytest.raises(ConfigError, match="no group of experts 'cod'") as caught:
        moe.group("cod")
    assert caught.value.hint == "did you mean code?"


def test_a_preset_has_a_moe_part(tmp_path: Path) -> None:
    file = tmp_path / "moe.toml"
    part = '\n[moe]\nform = "full"\n[[moe.groups]]\nname = "general"\nsizes = [8, 16]\n'
    file.write_text(TINY + part, encoding="utf-8")
    moe = load_preset(file, ("moe.n_active_experts=1",)).moe
    assert moe is not None
    assert (moe.form, moe.sizes, moe.n_active_experts) == ("full", (8, 16), 1)
    with pytest.raises(ConfigError, match=r"unknown setting moe\.n_activ") as caught:
        load_preset(file, ("moe.n_activ=1",))
    assert caught.value.hint == "did you mean n_active_experts?"


GROUP = {"name": "a", "sizes": [1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "dense"}, r"moe\.form is 'dense'"),
        ({"groups": []}, "groups is empty"),
        ({"groups": "general"}, "no list of tables"),
        ({"groups": [{"name": "a"}]}, "sizes"),
        ({"groups": [{"name": "a b", "sizes": [1]}]}, "named 'a b'"),
        ({"groups": [GROUP, GROUP]}, "named 'a'"),
        ({"groups": [{"name": "a", "sizes": [0]}]}, "has sizes"),
        ({"groups": [{"name": "a", "sizes": [True]}]}, "sizes is"),
        ({"groups": [{"name": "a", "sizes": [1] * 5_000}]}, "5000 experts"),
        ({"groups": [{"name": "a", "sizes": [1], "size": 1}]}, r"moe\.groups\.size"),
        ({"n_active_experts": 4}, "n_active_experts is 4"),
        ({"n_active_experts": -1}, "n_active_experts is -1"),
        ({"n_domains": 3}, "n_domains is 3"),
        ({"shared": 8}, "shared is 8"),
        ({"parts": 2}, "parts is 2"),
        ({"form": "full", "parts": 2}, "parts is 2"),
        ({"balance_loss": -1.0}, "balance_loss is -1"),
        ({"routing": "random"}, "routing is 'random'"),
        ({"top_k": 2}, "top_k"),
    ],
)
def test_what_a_moe_part_may_not_say(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        MoEConfig.from_table(TABLE | change)
    assert caught.value.hint


def test_slices_are_the_dense_layers_neurons() -> None:
    moe = replace(FULL, form="slices", shared=300)
    with pytest.raises(ConfigError, match=r"have 333 neurons, model\.d_ff is 384"):
        config_of(moe)


@pytest.mark.parametrize("part", [None, [], "full"])
def test_a_checkpoint_without_its_moe_part_is_refused(part: Any) -> None:
    config = config_of(FULL).to_checkpoint() | {"moe": part}
    with pytest.raises(ConfigError, match="no moe part"):
        ModelConfig.from_checkpoint(config)
