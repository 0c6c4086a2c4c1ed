"""Model shapes: presets, Hugging Face's config, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek.core.errors import ConfigError
from deepseek.model.config import ModelConfig, load_preset
from deepseek.model.transformer import Transformer
from tiny_checkpoint import ROOT

PRESETS = sorted(p for p in (ROOT / "configs").glob("*.toml") if not p.name.startswith("train-"))
COUNTS = {
    "qwen2.5-coder-1.5b": 1_543_714_304,
    "smollm2-135m": 134_515_008,
    "r1-tiny": 853_120,
    "r1-tiny-moe": 1_205_376,
    "r1-smol": 183_451_968,
    "r1-coder": 1_770_108_416,
    "r1-67b": 66_944_045_056,
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
}


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_presets_count_their_parameters(path: Path) -> None:
    config = load_preset(path)
    with torch.device("meta"):
        model = Transformer(config)
    assert config.n_parameters == sum(p.numel() for p in model.parameters())
    assert config.n_parameters == COUNTS[path.stem]
    assert f"{config.n_parameters / 1e6:,.1f} M parameters" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_presets_survive_a_checkpoints_config(path: Path) -> None:
    config = load_preset(path)
    assert ModelConfig.from_checkpoint(config.to_checkpoint()) == config
    if config.moe is None:
        assert ModelConfig.from_hf(config.to_hf()) == config


def test_the_full_size_is_67_billion_and_takes_no_memory_on_paper() -> None:
    config = load_preset(ROOT / "configs/r1-67b.toml")
    assert abs(config.n_parameters / 1e9 - 67) < 1
    assert config.moe is not None
    assert (config.moe.n_experts, config.moe.n_active_experts) == (16, 2)
    with torch.device("meta"):
        assert all(p.is_meta for p in Transformer(config).parameters())


def test_untied_embeddings_and_biases_count() -> None:
    tied = load_preset(ROOT / "configs/r1-tiny.toml")
    config = dataclasses.replace(tied, tied_embeddings=False, attention_bias=True)
    with torch.device("meta"):
        model = Transformer(config)
    assert config.n_parameters == sum(p.numel() for p in model.parameters())


def test_defaults_of_hugging_faces_config() -> None:
    config = ModelConfig.from_hf(LLAMA)
    assert (config.n_kv_heads, config.d_head) == (4, 16)
    assert (config.rope_theta, config.norm_eps) == (10_000.0, 1e-6)
    assert not config.attention_bias
    assert not config.tied_embeddings
    assert ModelConfig.from_hf(LLAMA | {"model_type": "qwen2"}).attention_bias


def test_rope_parameters_of_newer_configs() -> None:
    rope = {"rope_theta": 5e5, "rope_type": "default"}
    assert ModelConfig.from_hf(LLAMA | {"rope_parameters": rope}).rope_theta == 5e5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model type is 'gpt2'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rotary scaling 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, "rotary scaling 'linear'"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"hidden_act": "gelu"}, "feed-forward"),
        ({"mlp_bias": True}, "feed-forward"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_key_value_heads": 3}, "n_kv_heads 3"),
        ({"hidden_size": -64}, "hidden_size is -64"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"intermediate_size": 0}, "d_ff is 0"),
        ({"rope_theta": "10"}, "rope_theta is '10'"),
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"head_dim": 15}, "d_head is 15"),
        ({"rope_theta": 0.0}, "rope_theta is 0"),
        ({"rms_norm_eps": 2.0}, "norm_eps 2.0"),
    ],
)
def test_what_hugging_faces_config_may_not_say(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ModelConfig.from_hf(LLAMA | change)
    assert caught.value.hint


@pytest.mark.parametrize("name", [n for n in LLAMA if n != "model_type"])
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        ModelConfig.from_hf({k: v for k, v in LLAMA.items() if k != name})


def test_overrides_and_mistakes_in_presets(tmp_path: Path) -> None:
    tiny = ROOT / "configs/r1-tiny.toml"
    assert load_preset(tiny, ("model.n_layers=2",)).n_layers == 2
    with pytest.raises(ConfigError, match=r"unknown setting model\.n_layer") as caught:
        load_preset(tiny, ("model.n_layer=2",))
    assert caught.value.hint == "did you mean n_layers?"
    with pytest.raises(ConfigError, match=r"unknown section \[modle\]") as caught:
        load_preset(tiny, ("modle.n_layers=2",))
    assert caught.value.hint == "did you mean model?"
    with pytest.raises(ConfigError, match="d_model is 'wide'"):
        load_preset(tiny, ("model.d_model=wide",))
    broken = tmp_path / "broken.toml"
    broken.write_text("[model\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_preset(broken)
    with pytest.raises(ConfigError, match="cannot read"):
        load_preset(tmp_path / "absent.toml")
