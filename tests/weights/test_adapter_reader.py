"""Adapters in PEFT's format: what is read, and all that is refused with a reason."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek.core.errors import CheckpointError
from deepseek.model.adapter import fit
from deepseek.ops.native_model import Matrix
from deepseek.weights.adapter import MAX_RANK, read_adapter
from peft_adapter import ALL, Tensors, random_tensors, write_adapter
from tiny_checkpoint import tiny_config

CONFIG = tiny_config()
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return random_tensors(CONFIG, 4)


def test_everything_is_read(tmp_path: Path, tensors: Tensors) -> None:
    folder = write_adapter(tmp_path, tensors, lora_alpha=6)
    file = read_adapter(folder)
    assert file.base == "a/base"
    assert len(file.parts) == CONFIG.n_layers * len(ALL)
    part = file.parts["model.layers.0.self_attn.q_proj"]
    assert torch.equal(part.down, tensors[f"{Q0}.lora_A.weight"])
    assert torch.equal(part.up, tensors[f"{Q0}.lora_B.weight"])
    assert part.scale == 1.5
    fitted = fit(file, CONFIG)
    assert set(fitted) == {(layer, m) for layer in range(4) for m in list(Matrix)[:7]}
    assert fitted[0, Matrix.Q] is part


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_number_formats(tmp_path: Path, tensors: Tensors, dtype: torch.dtype) -> None:
    rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    part = read_adapter(write_adapter(tmp_path, rounded)).parts["model.layers.0.self_attn.q_proj"]
    assert torch.equal(part.down, rounded[f"{Q0}.lora_A.weight"].float())


def test_scales_follow_the_settings(tmp_path: Path, tensors: Tensors) -> None:
    mixed = tensors | random_tensors(CONFIG, 9, ["down_proj"])
    settings: dict[str, Any] = {
        "lora_alpha": 8,
        "rank_pattern": {"down_proj": 9},
        "alpha_pattern": {"layers.1.mlp.down_proj": 3.5, "^model.layers.0.self_attn.q_proj": 2},
    }
    parts = read_adapter(write_adapter(tmp_path / "a", mixed, **settings)).parts
    scales = {name: part.scale for name, part in parts.items()}
    assert scales["model.layers.0.self_attn.q_proj"] == 2 / 4
    assert scales["model.layers.1.self_attn.q_proj"] == 8 / 4
    assert scales["model.layers.1.mlp.down_proj"] == 3.5 / 9
    assert scales["model.layers.2.mlp.down_proj"] == 8 / 9
    rooted = read_adapter(write_adapter(tmp_path / "b", mixed, use_rslora=True, **settings)).parts
    assert rooted["model.layers.2.mlp.down_proj"].scale == 8 / math.sqrt(9)


def test_the_fingerprint_is_that_of_what_is_added(tmp_path: Path, tensors: Tensors) -> None:
    first = read_adapter(write_adapter(tmp_path / "a", tensors)).fingerprint
    same = write_adapter(tmp_path / "b", tensors, lora_dropout=0.0, base_model_name_or_path="c/d")
    assert read_adapter(same).fingerprint == first
    other = write_adapter(tmp_path / "c", tensors, lora_alpha=5)
    assert read_adapter(other).fingerprint != first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"bias": "all"}, "bias = 'all' is not supported"),
        ({"lora_bias": True}, "lora_bias = True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save = "),
        ({"fan_in_fan_out": True}, "fan_in_fan_out = True"),
        ({"peft_type": "LOHA"}, "peft_type = 'LOHA'"),
        ({"peft_type": None}, "peft_type = None"),
        ({"task_type": "SEQ_CLS"}, "task_type = 'SEQ_CLS'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora'"),
        ({"init_lora_weights": ["loftq"]}, "init_lora_weights = "),
        ({"use_rslora": "yes"}, "use_rslora = 'yes'"),
        ({"layer_replication": [[0, 2]]}, "layer_replication = "),
        ({"target_parameters": ["experts"]}, "target_parameters = "),
        ({"trainable_token_indices": [1]}, "trainable_token_indices = "),
        ({"some_new_setting": 1}, "some_new_setting = 1"),
        ({"layers_pattern": "h"}, "layers_pattern = 'h'"),
        ({"target_modules": [*ALL, "lm_head"]}, "the target module 'lm_head'"),
        ({"target_modules": None}, "target_modules is None"),
        ({"target_modules": ""}, "target_modules is ''"),
        ({"target_modules": [3]}, "target_modules is "),
        ({"target_modules": ["q_proj"]}, "which is none of its target_modules"),
        ({"r": 5}, "where its rank is 5"),
        ({"r": 0}, "r is 0"),
        ({"r": True}, "r is True"),
        ({"r": "4"}, "r is '4'"),
        ({"r": MAX_RANK + 1}, "r is 1025"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
        ({"lora_alpha": 1e5}, "holds numbers above 128"),
        ({"rank_pattern": {"q_proj": 5}}, "where its rank is 5"),
        ({"rank_pattern": {"(a+)+$": 4}}, r"rank_pattern is '\(a\+\)\+\$'"),
        ({"rank_pattern": [1]}, "rank_pattern is "),
        ({"alpha_pattern": {"q_proj": "x"}}, r"alpha_pattern\[q_proj\] is 'x'"),
        ({"layers_to_transform": "all"}, "layers_to_transform is 'all'"),
        ({"layers_to_transform": [-1]}, "layers_to_transform is "),
    ],
    ids=str,
)
def test_settings_that_are_refused(
    tmp_path: Path, tensors: Tensors, settings: dict[str, Any], message: str
) -> None:
    folder = write_adapter(tmp_path, tensors, **settings)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_adapter(folder)
    assert caught.value.hint


def changed(tensors: Tensors, **changes: Any) -> Tensors:
    """With the first query projection's matrices replaced, or left out."""
    found = dict(tensors)
    for letter, value in changes.items():
        del found[f"{Q0}.lora_{letter}.weight"]
        if value is not None:
            found[f"{Q0}.lora_{letter}.weight"] = value
    return found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"A": None}, "has only lora_B of"),
        ({"B": None}, "has only lora_A of"),
        ({"A": torch.ones(4)}, "of shape"),
        ({"A": torch.ones(0, 128), "B": torch.ones(128, 0)}, "of shape"),
        ({"A": torch.ones(4, 128, dtype=torch.int32)}, "is torch.int32"),
        ({"A": torch.ones(4, 128, dtype=torch.float64)}, "is torch.float64"),
        ({"A": torch.full((4, 128), torch.nan)}, "no numbers"),
        ({"B": torch.full((128, 4), torch.inf)}, "no numbers"),
        ({"B": torch.full((128, 4), 129.0)}, "above 128"),
        ({"A": torch.ones(3, 128)}, "where its rank is 4"),
        ({"B": torch.ones(128, 5)}, "where its rank is 4"),
    ],
)
def test_tensors_that_are_refused(
    tmp_path: Path, tensors: Tensors, changes: dict[str, Any], message: str
) -> None:
    folder = write_adapter(tmp_path, changed(tensors, **changes), r=4, lora_alpha=4)
    with pytest.raises(CheckpointError, match=message):
        read_adapter(folder)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.lora_A.weight",
        f"{Q0}.lora_magnitude_vector",
        f"{Q0}.lora_A.default.weight",
        f"{Q0}.lora_A.bias",
        "base_model.model.model.layers.00.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.mlp.experts.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
    ],
)
def test_other_tensors_are_refused(tmp_path: Path, tensors: Tensors, name: str) -> None:
    folder = write_adapter(tmp_path, tensors | {name: torch.ones(4, 4)}, r=4)
    with pytest.raises(CheckpointError, match=r"tensor .* is not supported"):
        read_adapter(folder)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"anything")
    with pytest.raises(CheckpointError, match="holds a pickle") as caught:
        read_adapter(tmp_path)
    assert "safetensors" in caught.value.hint


def test_folders_that_hold_none(tmp_path: Path, tensors: Tensors) -> None:
    with pytest.raises(CheckpointError, match="is no folder"):
        read_adapter(tmp_path / "missing")
    with pytest.raises(CheckpointError, match=r"holds no adapter_model.safetensors"):
        read_adapter(tmp_path)
    folder = write_adapter(tmp_path / "a", tensors)
    with pytest.raises(CheckpointError, match="is no folder"):
        read_adapter(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        read_adapter(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*adapter_config.json"):
        read_adapter(folder)


def test_every_truncation_is_found(tmp_path: Path, tensors: Tensors) -> None:
    folder = write_adapter(tmp_path, tensors)
    file = folder / "adapter_model.safetensors"
    data = file.read_bytes()
    for size in range(0, len(data), len(data) // 23):
        file.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            read_adapter(folder)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    file = read_adapter(write_adapter(tmp_path / "a", tensors))
    for change, message in (
        ({"d_ff": 256}, "is 128 x 384, the model's 128 x 256"),
        ({"n_layers": 3}, "it has a layer 3, the model 3 layers"),
        ({"n_layers": 5}, "it has no Q of layer 4"),
    ):
        other = dataclasses.replace(CONFIG, **change)
        with pytest.raises(CheckpointError, match=message) as caught:
            fit(file, other)
        assert "a/base" in caught.value.hint


def test_layers_that_are_left_out(tmp_path: Path, tensors: Tensors) -> None:
    some = {name: tensor for name, tensor in tensors.items() if ".layers.2." not in name}
    with pytest.raises(CheckpointError, match="no Q of layer 2"):
        fit(read_adapter(write_adapter(tmp_path / "a", some)), CONFIG)
    for settings in (
        {"layers_to_transform": [0, 1, 3]},
        {"target_modules": r".*\.[013]\..*_proj"},
        {"exclude_modules": ["x"]},
    ):
        file = read_adapter(write_adapter(tmp_path / "b", some, **settings))
        assert len(fit(file, CONFIG)) == 3 * 7
    with pytest.raises(CheckpointError, match="no Q of layer 2"):
        fit(read_adapter(write_adapter(tmp_path / "c", some, layers_to_transform=[1, 2])), CONFIG)


def test_a_target_without_tensors(tmp_path: Path) -> None:
    only = random_tensors(CONFIG, 4, ["q_proj"])
    folder = write_adapter(tmp_path, only, target_modules=["q_proj", "v_proj"])
    with pytest.raises(CheckpointError, match="no tensors of its target module 'v_proj'"):
        read_adapter(folder)
