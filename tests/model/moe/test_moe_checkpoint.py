"""Mixtures in files: bit for bit, gate in float32, trained on, refused where they cannot run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moe_models import FORMS, FULL, LOW_RANK, ids_of, layers_of, model_of
from safetensors.torch import load_file, save_file

from deepseek.core.errors import CheckpointError
from deepseek.model.adapter import fit
from deepseek.model.checkpoint import hf_tensors, load_model, save_model
from deepseek.model.decoder import can_decode
from deepseek.model.moe.config import MoEConfig
from deepseek.model.transformer import Transformer
from deepseek.weights.adapter import read_adapter
from deepseek.weights.source import open_weights
from peft_adapter import random_adapter


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("moe", FORMS.values(), ids=FORMS)
@torch.inference_mode()
def test_round_trip(moe: MoEConfig, tmp_path: Path, pack: bool) -> None:
    model = model_of(moe)
    save_model(model, tmp_path)
    again = load_model(open_weights(tmp_path), dtype=torch.float32, pack=pack)
    assert again.config == model.config
    first, second = dict(hf_tensors(model)), dict(hf_tensors(again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(again(ids_of(40)), model(ids_of(40)), atol=2e-4, rtol=0)
    assert not can_decode(again)


@pytest.mark.parametrize("moe", FORMS.values(), ids=FORMS)
def test_gates_stay_in_float32_and_models_train_on(moe: MoEConfig, tmp_path: Path) -> None:
    save_model(model_of(moe), tmp_path)
    model = load_model(open_weights(tmp_path), dtype=torch.bfloat16, pack=False).train()
    wide = {"gate.weight", "gate.bias"}
    for name, tensor in layers_of(model)[0].state_dict().items():
        assert tensor.dtype is (torch.float32 if name in wide else torch.bfloat16), name
    model(ids_of(20)).float().logsumexp(-1).sum().backward()
    # A token's only expert of a part, or a slice at a fresh scale, still moves its gate.
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_fresh_low_rank_experts_change_no_bit_after_saving(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    model = model_of(LOW_RANK)
    for layer in layers_of(model):
        for name, parameter in layer.experts.named_parameters():
            if name.endswith("_b"):
                parameter.zero_()
    base = Transformer(replace(model.config, moe=None))
    names = {k.replace(".dense.", "."): v for k, v in model.state_dict().items()}
    base.load_state_dict({k: v for k, v in names.items() if k in base.state_dict()})
    save_model(base, tmp_path / "base")
    save_model(model, tmp_path / "moe")
    dense, moe = (
        load_model(open_weights(tmp_path / name), dtype=dtype) for name in ("base", "moe")
    )
    for ids in (ids_of(50), ids_of(1)):
        assert torch.equal(moe(ids), dense(ids))


def test_a_missing_or_misshapen_tensor_is_named(tmp_path: Path) -> None:
    save_model(model_of(LOW_RANK), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.experts.up_b"
    for changed in (
        {k: v for k, v in tensors.items() if k != name},
        tensors | {name: tensors[name][1:].contiguous()},
    ):
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match="up_b"):
            load_model(open_weights(tmp_path), dtype=torch.float32)


def test_adapters_of_the_feed_forward_layer_fit_only_where_there_is_a_whole_one(
    tmp_path: Path,
) -> None:
    model = model_of(LOW_RANK)
    file = read_adapter(random_adapter(tmp_path / "all", model.config))
    assert fit(file, model.config)
    with pytest.raises(CheckpointError, match="split into experts"):
        fit(file, replace(model.config, moe=FULL))
    attention = random_adapter(tmp_path / "attention", model.config, modules=["q_proj"])
    assert fit(read_adapter(attention), replace(model.config, moe=FULL))
