"""Experts out of mixtures and back in, as files that PEFT knows."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deepseek.adapt.groups import plan_mixture
from deepseek.adapt.surgery import (
    export_expert,
    import_expert,
    list_experts,
    remove_experts,
    without,
)
from deepseek.adapt.upcycle import upcycle
from deepseek.cli.main import main
from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.model.adapter import fit
from deepseek.model.checkpoint import load_model, save_model
from deepseek.model.config import ModelConfig
from deepseek.model.moe.config import MoEConfig
from deepseek.model.moe.load import mixtures_of
from deepseek.weights.adapter import read_adapter
from deepseek.weights.source import open_weights
from peft_adapter import random_adapter

IDS = torch.randint(512, (1, 60), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained(mixture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts that say something."""
    model = load_model(open_weights(mixture_folder), dtype=torch.float32, pack=False)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_b"):
                parameter.normal_(0, 0.05, generator=generator)
    folder = tmp_path_factory.mktemp("trained")
    save_model(model, folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_list_counts_all_parameters(trained: Path, moe: MoEConfig) -> None:
    config = ModelConfig.from_checkpoint(open_weights(trained).config())
    experts = list_experts(config)
    assert [e.size for e in experts] == list(moe.sizes)
    assert [e.group for e in experts] == ["general"] * 2 + ["text"] * 3 + ["code"] * 3
    dense = replace(config, moe=None)
    assert dense.n_parameters + sum(e.n_parameters for e in experts) == config.n_parameters


def test_taking_experts_out_leaves_the_bits_of_all_others(trained: Path, tmp_path: Path) -> None:
    config = remove_experts(open_weights(trained), [5, 6, 7], tmp_path)
    assert config.moe is not None
    assert [group.name for group in config.moe.groups] == ["general", "text"]
    before, after = weights(trained), weights(tmp_path)
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name][: len(tensor)]), name
    load_model(open_weights(tmp_path), dtype=torch.float32)(IDS)
    middle = tmp_path / "middle"
    remove_experts(open_weights(trained), [2], middle)
    name = "model.layers.3.mlp.experts.down_b"
    rows = weights(trained)[name]
    assert torch.equal(weights(middle)[name], torch.cat((rows[:8], rows[10:])))


@torch.inference_mode()
def test_an_expert_goes_out_and_comes_back_as_it_was(trained: Path, tmp_path: Path) -> None:
    """The last of its group, so that it comes back to its own place."""
    source = open_weights(trained)
    export_expert(source, 4, tmp_path / "expert", "r1")
    remove_experts(source, [4], tmp_path / "less")
    import_expert(open_weights(tmp_path / "less"), tmp_path / "expert", "text", tmp_path / "again")
    before, after = weights(trained), weights(tmp_path / "again")
    assert all(torch.equal(before[name], after[name]) for name in before)
    models = [
        load_model(open_weights(p), dtype=torch.float32) for p in (trained, tmp_path / "again")
    ]
    assert torch.equal(models[0](IDS), models[1](IDS))


@torch.inference_mode()
def test_an_exported_expert_is_an_adapter(trained: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """Alone and at weight 1 it adds what the adapter adds to the dense model."""
    from deepseek.model.adapter import Additions, TorchAdapter, shape_of

    single = shutil.copytree(trained, tmp_path / "single")
    config = json.loads((single / "config.json").read_text())
    config["moe"]["n_active_experts"] = 1
    (single / "config.json").write_text(json.dumps(config))
    source = open_weights(single)
    export_expert(source, 5, tmp_path / "expert", "r1")
    remove_experts(source, [e for e in range(8) if e != 5], tmp_path / "one")
    dense = load_model(open_weights(tiny_folder), dtype=torch.float32)
    file = read_adapter(tmp_path / "expert")
    assert {part.rank for part in file.parts.values()} == {8}
    parts = fit(file, dense.config)
    mixture = load_model(open_weights(tmp_path / "one"), dtype=torch.float32)
    adapter = TorchAdapter(parts, shape_of(dense.config), torch.float32, torch.device("cpu"))
    adapted = dense(IDS, additions=Additions([(adapter, IDS.shape[1])]))
    torch.testing.assert_close(mixture(IDS), adapted, atol=1e-4, rtol=0)
    assert not torch.allclose(adapted, dense(IDS), atol=1e-2)


@torch.inference_mode()
def test_a_strangers_adapter_becomes_an_expert(trained: Path, tmp_path: Path) -> None:
    config = ModelConfig.from_checkpoint(open_weights(trained).config())
    modules = ["gate_proj", "down_proj"]
    adapter = random_adapter(tmp_path / "lora", config, rank=5, modules=modules)
    grown = import_expert(open_weights(trained), adapter, "maths", tmp_path / "grown")
    assert grown.moe is not None
    assert grown.moe.groups[-1].name == "maths"
    assert grown.moe.groups[-1].sizes == (5,)
    model = load_model(open_weights(tmp_path / "grown"), dtype=torch.float32)
    model(IDS, domains=torch.full_like(IDS, 3))
    layer = mixtures_of(model)[0]
    assert layer.take_counts()[-1] > 0
    part = fit(read_adapter(adapter), config)
    (low,) = [p for (number, which), p in part.items() if number == 0 and which.name == "DOWN"]
    rows = layer.experts.tensors()["down_b"][-5:]
    torch.testing.assert_close(rows * 2.0, low.up.T * low.scale)
    assert not layer.experts.tensors()["up_b"][-5:].any()


def test_taking_slices_out_makes_the_layer_narrower(tiny_folder: Path, tmp_path: Path) -> None:
    moe = plan_mixture("slices", 384, n_experts=4, top_k=4, groups="general=60x1+40x1+72x2")
    upcycle(open_weights(tiny_folder), moe, tmp_path / "slices", dtype=torch.float32)
    source = open_weights(tmp_path / "slices")
    with pytest.raises(ConfigError, match="n_active_experts is 4"):
        remove_experts(source, [1], tmp_path / "less")
    config = ModelConfig.from_checkpoint(source.config())
    assert config.moe is not None
    fewer = replace(config, moe=replace(config.moe, n_active_experts=2))
    assert without(fewer, [1]).d_ff == 344
    with pytest.raises(ConfigError, match="no adapters"):
        export_expert(source, 0, tmp_path / "expert", "r1")
    with pytest.raises(ConfigError, match="no adapters"):
        import_expert(source, tmp_path / "expert", "general", tmp_path / "more")


def test_mistakes(trained: Path, tmp_path: Path, tiny_folder: Path) -> None:
    source = open_weights(trained)
    with pytest.raises(ConfigError, match="there is no expert 8"):
        remove_experts(source, [8], tmp_path / "x")
    with pytest.raises(ConfigError, match="there is no expert 8"):
        export_expert(source, 8, tmp_path / "x", "r1")
    with pytest.raises(ConfigError, match="no expert would be left"):
        remove_experts(source, list(range(8)), tmp_path / "x")
    with pytest.raises(ConfigError, match="is the model itself"):
        remove_experts(source, [1], trained)
    with pytest.raises(ConfigError, match="the model has no experts"):
        remove_experts(open_weights(tiny_folder), [0], tmp_path / "x")
    config = ModelConfig.from_checkpoint(source.config())
    attention = random_adapter(tmp_path / "attention", config, modules=["q_proj", "up_proj"])
    with pytest.raises(CheckpointError, match="adapts attention"):
        import_expert(source, attention, "text", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_verb(
    trained: Path, mixture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["experts", "list", str(trained), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 8
    expert, less, more = (str(tmp_path / name) for name in ("expert", "less", "more"))
    assert main(["experts", "export", str(trained), "--expert", "4", "--out", expert]) == 0
    assert main(["experts", "remove", str(trained), "--group", "code", "--out", less]) == 0
    argv = ["experts", "import", less, "--adapter", expert, "--group", "maths", "--out", more]
    assert main(argv) == 0
    assert "6 experts" in capsys.readouterr().out
    svg = tmp_path / "load.svg"
    argv = ["experts", "load", str(mixture_folder), "--tokens", "1024", "--svg", str(svg)]
    assert main([*argv, "--json", "--dtype", "float32"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tokens"] == 1_024
    assert report["tokens_times_slots"] == 2_048
    assert svg.read_text().startswith("<svg")
    assert main(argv) == 0
    assert "u_busy" in capsys.readouterr().out
    for wrong, said in (
        (["remove", str(trained), "--out", str(tmp_path / "y")], "no expert is named"),
        (["export", str(trained), "--expert", "1"], "where to write"),
        (["import", str(trained), "--out", str(tmp_path / "y")], "what to import"),
        (["list", str(tmp_path)], "config.json"),
    ):
        assert main(["experts", *wrong]) == 2
        assert said in capsys.readouterr().err
