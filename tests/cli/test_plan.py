"""`deepseek plan`: what it prints, as text and as JSON."""

import json

import pytest

from deepseek.cli.main import main
from tiny_checkpoint import ROOT

PRESET = str(ROOT / "configs" / "r1-67b.toml")


def test_a_plan_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["plan", PRESET, "--devices", "8x16GB", "--dtype", "int4", "--kv-dtype", "int4"]
    assert main(argv) == 0
    output = capsys.readouterr()
    for said in ("66,944.0 M parameters", "experts", "layout: ", "smallest that fits", "int8"):
        assert said in output.out
    assert "next: deepseek plan" in output.err


def test_a_plan_as_json_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["plan", "r1-67b", "--devices", "8x80GB", "--training", "--context", "4096", "--json"]
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["fits"]
    memory = found["layout"]["memory"]
    shares = [n for name, n in memory.items() if name not in ("left", "memory budget")]
    assert sum(shares) + memory["left"] == memory["memory budget"] == 80 * 10**9
    assert memory["left"] < 0
    assert found["smallest"]["fits"]
    assert found["smallest"]["n_devices"] > 8
    sizes = {row["name"]: row["weights"] for row in found["formats"]}
    assert sizes["float32"] > sizes["bfloat16"] > sizes["int8"] > sizes["int4"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--devices", "8x"], "names no devices"),
        (["--devices", "1GB", "--dtype", "int3"], "int3"),
        (["--devices", "1GB", "--set", "moe.n_active_experts=99"], "n_active_experts"),
        (["--devices", "1GB", "--context", "-5"], "context is -5"),
        (["--devices", "1GB", "--training", "--dtype", "int4"], "training computes"),
    ],
)
def test_mistakes_have_a_hint(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", PRESET, *argv]) == 2
    assert said in (error := capsys.readouterr().err)
    assert "hint: " in error
