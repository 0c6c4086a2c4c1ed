"""From a dense checkpoint to mixtures: exact before training, balanced, whole or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepseek.adapt.calibration import Calibration
from deepseek.adapt.groups import plan_mixture
from deepseek.adapt.upcycle import active_parameters, upcycle
from deepseek.cli.main import main
from deepseek.core.errors import ConfigError
from deepseek.model.checkpoint import load_model
from deepseek.model.moe.config import Form, MoEConfig
from deepseek.model.moe.load import measure_load, mixtures_of
from deepseek.model.transformer import Transformer
from deepseek.weights.source import open_weights

IDS = torch.randint(512, (2, 70), generator=torch.Generator().manual_seed(0))


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> Transformer:
    return load_model(open_weights(folder), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_low_rank_experts_change_no_bit(
    tiny_folder: Path, mixture_folder: Path, dtype: torch.dtype
) -> None:
    dense, mixture = loaded(tiny_folder, dtype), loaded(mixture_folder, dtype)
    assert torch.equal(mixture(IDS), dense(IDS))
    assert torch.equal(mixture(IDS[:1, :1]), dense(IDS[:1, :1]))
    report = json.loads((mixture_folder / "upcycle.json").read_text())
    assert report["largest_difference"] == 0
    assert report["n_parameters"] == mixture.config.n_parameters
    assert report["n_calibration_tokens"] == 4_096


@pytest.mark.parametrize("has_sample", [True, False])
@pytest.mark.parametrize(
    ("form", "top_k", "groups"),
    [
        ("slices", 16, None),
        ("slices", 3, "general=20x1+50x1,text=100x1"),
        ("full", 2, None),
        ("full", 2, "general=4,text=6,code=6"),
    ],
)
@torch.inference_mode()
def test_other_forms_compute_the_same_up_to_rounding(
    tiny_folder: Path,
    tmp_path: Path,
    sample: Calibration,
    form: Form,
    top_k: int,
    groups: str | None,
    has_sample: bool,
) -> None:
    n_experts = 3 if top_k == 3 else 16
    moe = plan_mixture(form, 384, n_experts=n_experts, top_k=top_k, groups=groups)
    source = open_weights(tiny_folder)
    used = replace(sample, domains=torch.full_like(sample.domains, -1)) if has_sample else None
    report = upcycle(source, moe, tmp_path, calibration=used, dtype=torch.float32)
    difference = (loaded(tmp_path)(IDS) - loaded(tiny_folder)(IDS)).abs().max()
    assert float(difference) < 1e-4
    assert (report.largest_difference is not None) == has_sample
    assert (report.largest_difference or 0.0) < 1e-4


def test_the_gates_start_balanced_and_know_their_domains(
    mixture_folder: Path, moe: MoEConfig, sample: Calibration
) -> None:
    """On the text they were started by."""
    model = loaded(mixture_folder)
    pairs = zip(sample.token_ids.tolist(), sample.domains.tolist(), strict=True)
    report = measure_load(model, [([ids], domain) for ids, domain in pairs]).report()
    assert report["dead_experts"] == 0
    text, code = (report["domains"][name]["share_by_group"] for name in ("text", "code"))
    assert text["text"] > code["text"]
    assert code["code"] > text["code"]

    def fullest() -> float:
        """The largest load beside its group's mean, over groups and layers, with labels."""
        with torch.inference_mode():
            domains = sample.domains[:, None].expand_as(sample.token_ids)
            model(sample.token_ids, last=0, domains=domains.contiguous())
        loads = [layer.take_counts().double() for layer in mixtures_of(model)]
        groups = [load[first:end] for load in loads for first, end in moe.bounds]
        return sum(float(group.max() / group.mean()) for group in groups) / len(groups)

    started = fullest()
    for layer in mixtures_of(model):
        layer.gate.bias.zero_()
    assert started < 1.2
    assert started < fullest()


def test_the_same_seed_gives_the_same_file(
    tiny_folder: Path, mixture_folder: Path, tmp_path: Path, moe: MoEConfig, sample: Calibration
) -> None:
    source = open_weights(tiny_folder)
    upcycle(source, moe, tmp_path, calibration=sample, dtype=torch.float32)
    name = "model.safetensors"
    assert (tmp_path / name).read_bytes() == (mixture_folder / name).read_bytes()


def test_parameters_of_a_token() -> None:
    from moe_presets import preset

    config = preset("r1-67b")
    assert active_parameters(config) == pytest.approx(10.6e9, rel=0.01)
    dense = preset("r1-tiny")
    assert active_parameters(dense) == dense.n_parameters


def test_a_mixture_is_not_converted_again(mixture_folder: Path, tmp_path: Path) -> None:
    source, moe = open_weights(mixture_folder), plan_mixture("low_rank", 384)
    with pytest.raises(ConfigError, match="a mixture already"):
        upcycle(source, moe, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_verb(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r1"
    argv = ["upcycle", str(tiny_folder), "--out", str(out), "--tokens", "1024"]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert "16 experts of form low_rank" in said.out
    assert "none, bit for bit" in said.out
    assert f"next: deepseek experts list {out}" in said.err
    assert main(["generate", "--raw", "The licence", "--model", str(out), "--max-tokens", "3"]) == 0
    assert main(argv) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--experts", "0"], "0 experts"),
        (["--groups", "text"], "cannot be read"),
        (["--groups", "text=4"], "the groups have 4 experts, 16 are wanted"),
        (["--top-k", "17"], "n_active_experts is 17"),
        (["--form", "B", "--experts", "2", "--groups", "a=300x2"], "have 600 neurons"),
        (["--form", "C", "--experts", "2", "--groups", "a=5x2"], "leave out their sizes"),
        (["--form", "C", "--top-k", "3"], "multiples of the parts"),
        (["--budget", "3"], "moe.budget is 3.0"),
        (["--calibration", "nowhere.txt"], "nowhere.txt does not exist"),
        (["--calibration", "maths=FILE"], "no group of experts 'maths'"),
        (["--calibration", "FILE"], "shorter than 512 tokens"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    options: list[str],
    said: str,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "short.txt"
    file.write_text("too short")
    options = [option.replace("FILE", str(file)) for option in options]
    out = tmp_path / "out"
    assert main(["upcycle", str(tiny_folder), "--out", str(out), *options]) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert "hint: " in output.err
    assert not out.exists()


def test_random_rows_are_called_so(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r1"
    argv = ["upcycle", str(tiny_folder), "--out", str(out), "--calibration", "none", "--json"]
    assert main(argv) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["calibration"] == "none: the gate's rows are random"
    assert report["largest_difference"] is None
