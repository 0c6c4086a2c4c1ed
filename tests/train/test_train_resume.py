"""A run that is killed at any moment ends in the very bytes of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepseek.cli.main import main

CONFIG = """
[run]
window = 32
batch = 4
micro = 2
[model]
family = "llama"
d_model = 32
n_layers = 2
n_heads = 4
n_kv_heads = 2
d_head = 8
d_ff = 64
context_window = 64
[tokenizer]
vocab_size = 300
[sources.text]
paths = ["text"]
[sources.numbers]
paths = ["numbers"]
[optimiser]
kind = "muon"
rate = 1e-2
[mixture]
dynamic = true
[[stages]]
name = "foundation"
tokens = 2_560
weights = { text = 1, numbers = 1 }
pacing = 0.5
[[stages]]
name = "refinement"
tokens = 2_560
weights = { numbers = [[0, 1.0], [1, 3.0]], text = 1 }
[evaluation]
every = 10
held_out = 0.1
tokens = 500
[checkpoint]
every = 3
average = 2
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for kind in ("text", "numbers"):
        (folder / kind).mkdir()
        for number in range(40):
            words = ["one", "and", "another"] if kind == "text" else ["0", "17", "4"]
            body = " ".join(words[(number * k) % 3] for k in range(5 + number))
            (folder / kind / f"{number}.txt").write_text(f"{kind} {number}: {body}")
    (folder / "config.toml").write_text(CONFIG)
    return folder


def command(project: Path, out: Path, *more: str) -> list[str]:
    verb = [sys.executable, "-m", "deepseek", "train", str(project / "config.toml")]
    return [*verb, "--out", str(out), *more]


def environment(project: Path) -> dict[str, str]:
    return {**os.environ, "DEEPSEEK_HOME": str(project / "home"), "OMP_NUM_THREADS": "1"}


def start(project: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(project, out, *more),
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def unbroken(project: Path) -> Path:
    run = start(project, project / "unbroken")
    output, errors = run.communicate(timeout=500)
    assert run.returncode == 0, errors
    assert "bits per byte" in output
    assert "next: deepseek generate" in errors
    return project / "unbroken"


def lines_of(out: Path) -> int:
    file = out / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def result_bytes(out: Path) -> dict[str, bytes]:
    files = [*sorted((out / "checkpoints").iterdir()), out / "model/model.safetensors"]
    return {file.name: file.read_bytes() for file in files}


def test_a_killed_run_ends_in_the_same_bytes(project: Path, unbroken: Path) -> None:
    out = project / "killed"
    for n_lines in (6, 14, 25):  # in the first stage, in the first again or not, in the second
        run = start(project, out, "--resume")
        end = time.monotonic() + 500
        while run.poll() is None and lines_of(out) < n_lines and time.monotonic() < end:
            time.sleep(0.005)
        assert run.poll() is None, run.communicate()[1]
        run.send_signal(signal.SIGKILL)
        run.communicate()
        assert run.returncode == -signal.SIGKILL
    run = start(project, out, "--resume")
    errors = run.communicate(timeout=500)[1]
    assert run.returncode == 0, errors
    assert "going on after step" in errors
    assert result_bytes(out) == result_bytes(unbroken)
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (out, unbroken)
    ]
    assert [row["step"] for row in rows[0]] == list(range(42))
    for key in ("loss", "weights", "bits_per_byte"):
        assert [row.get(key) for row in rows[0]] == [row.get(key) for row in rows[1]], key


def test_a_stopped_run_saves_its_state_and_says_how_to_go_on(project: Path, unbroken: Path) -> None:
    out = project / "stopped"
    run = start(project, out)
    while run.poll() is None and lines_of(out) < 5:
        time.sleep(0.005)
    run.send_signal(signal.SIGTERM)
    errors = run.communicate(timeout=500)[1]
    assert run.returncode == 130, errors
    assert "its state is saved" in errors
    assert "--resume" in errors
    # Nothing is lost, and without --resume nothing is overwritten.
    step = lines_of(out) - 1
    assert (out / f"checkpoints/step-{step:08d}.safetensors").exists()


def test_a_run_is_not_overwritten(
    project: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(project, unbroken)[3:]) == 2
    assert "--resume" in capsys.readouterr().err


def test_the_result_is_a_model_for_every_other_verb(
    project: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(unbroken / "model")
    assert main(["generate", "text 3:", "--raw", "--model", model, "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out.strip()


def test_the_report_shows_the_run(unbroken: Path) -> None:
    page = (unbroken / "report.html").read_text()
    for wanted in ("foundation → refinement", "Bits per byte", "<polyline", "weights after steps"):
        assert wanted in page
    assert "<script" not in page


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = project / "dry"
    argv = command(project, out, "--dry-run", "--set", "run.batch=8")[3:]
    assert main(argv) == 0
    output = capsys.readouterr()
    for wanted in ("run.batch = 8", "parameters: ", "stage foundation: 10 steps, 2,560 tokens"):
        assert wanted in output.out
    assert "next: deepseek train" in output.err
    assert not out.exists()
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stages"][1]["sources"]["numbers"] > found["stages"][1]["sources"]["text"]
    assert found["n_parameters"] == found["n_trained"]
