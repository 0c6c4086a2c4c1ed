"""Weights in and out: transformers loads what we save, and we load it back bit for bit."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from deepseek.core.errors import CheckpointError
from deepseek.model.checkpoint import hf_tensors, load_model, save_model
from deepseek.model.config import ModelConfig
from deepseek.model.transformer import Transformer
from deepseek.weights.source import open_weights
from tiny_checkpoint import tiny_config, tiny_model

CONFIGS = {
    "llama": tiny_config(),
    "llama-untied": dataclasses.replace(tiny_config(), tied_embeddings=False),
    "qwen2": dataclasses.replace(tiny_config(), family="qwen2", attention_bias=True),
    "wide-heads": dataclasses.replace(
        tiny_config(), d_head=64, n_kv_heads=1, rope_theta=321.0, norm_eps=0.01
    ),
}
IDS = torch.arange(3, 90)[None]


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def model(request: pytest.FixtureRequest) -> Transformer:
    model = tiny_model(request.param)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # not the zeros and ones they start as
                parameter.add_(torch.linspace(-0.3, 0.3, len(parameter)))
    return model


@torch.inference_mode()
def test_transformers_computes_the_same_logits(model: Transformer, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    theirs, info = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    torch.testing.assert_close(model(IDS), theirs.eval()(IDS).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pack", [False, True])
@torch.inference_mode()
def test_round_trip(model: Transformer, tmp_path: Path, pack: bool) -> None:
    save_model(model, tmp_path)
    seen: list[tuple[int, int]] = []
    again = load_model(
        open_weights(tmp_path),
        dtype=torch.float32,
        pack=pack,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert again.config == model.config
    assert not again.training
    assert seen == [(i, 5) for i in range(1, 6)]
    first, second = dict(hf_tensors(model)), dict(hf_tensors(again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(again(IDS), model(IDS), atol=1e-4, rtol=0)


def test_an_unpacked_model_trains(tmp_path: Path) -> None:
    save_model(tiny_model(tiny_config()), tmp_path)
    model = load_model(open_weights(tmp_path), dtype=torch.float32, pack=False)
    model(IDS).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert model.head.weight is model.embedding.weight


@torch.inference_mode()
def test_bfloat16_is_saved_as_bfloat16(tmp_path: Path) -> None:
    model = tiny_model(tiny_config()).bfloat16()
    save_model(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["torch_dtype"] == "bfloat16"
    tensors = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert sum(t.numel() for t in tensors.values()) == model.config.n_parameters


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    save_model(tiny_model(tiny_config()), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.2.mlp.down_proj.weight"
    save_file({k: v for k, v in tensors.items() if k != name}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=name):
        load_model(open_weights(tmp_path), dtype=torch.float32)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight"])
def test_a_wrong_shape_is_named(tmp_path: Path, name: str) -> None:
    save_model(tiny_model(tiny_config()), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=name.removesuffix(".weight") + "|head"):
        load_model(open_weights(tmp_path), dtype=torch.float32)


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot write"):
        save_model(tiny_model(tiny_config()), tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_initialisation_is_seeded_and_scaled_by_depth() -> None:
    config: ModelConfig = dataclasses.replace(tiny_config(), n_layers=8)
    first, second, third = (Transformer(config) for _ in range(3))
    first.initialise(3)
    second.initialise(3)
    third.initialise(4)
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, third.head.weight)
    weights = dict(hf_tensors(first))
    down = weights["model.layers.0.mlp.down_proj.weight"]
    assert float(down.std()) == pytest.approx(0.02 / 16**0.5, rel=0.05)
    assert float(weights["model.embed_tokens.weight"].std()) == pytest.approx(0.02, rel=0.05)
