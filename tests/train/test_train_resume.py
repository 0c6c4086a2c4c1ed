"""A run that is killed at any moment ends in the very bytes of one that was not."""

import json
import os
import signal
import subprocess
import sys
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


# Runs the command line, and dies or is asked to stop at a call that the test names.
PROGRAM = """
import os, signal, sys
from types import SimpleNamespace
from deepseek.cli.main import main
from deepseek.train import metrics, objective, state
how, where, count, *argv = sys.argv[1:]
n_calls = 0

def counted(function):
    def call(*args, **more):
        global n_calls
        n_calls += 1
        if n_calls == int(count):
            os.kill(os.getpid(), getattr(signal, how))
        return function(*args, **more)
    return call

if where == "pass":  # within a step
    objective.backward_from_logits = counted(objective.backward_from_logits)
elif where == "line":  # after a step, before its line in the metrics
    metrics.MetricsFile.append = counted(metrics.MetricsFile.append)
elif where == "rename":  # a checkpoint is written, and has not its name yet
    state.os = SimpleNamespace(**{**vars(os), "replace": counted(os.replace)})
elif where == "renamed":
    state._sync_folder = counted(state._sync_folder)
sys.exit(main(argv))
"""


def arguments(project: Path, out: Path, *more: str) -> list[str]:
    return ["train", str(project / "config.toml"), "--out", str(out), *more]


def run(
    project: Path, out: Path, *more: str, dying: tuple[str, str, int] = ("SIGKILL", "never", 0)
) -> "subprocess.CompletedProcess[str]":
    """The command line in a process of its own."""
    how, where, count = dying
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, how, where, str(count), *arguments(project, out, *more)],
        env={**os.environ, "DEEPSEEK_HOME": str(project / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.fixture(scope="module")
def unbroken(project: Path) -> Path:
    done = run(project, project / "unbroken")
    assert done.returncode == 0, done.stderr
    assert "bits per byte" in done.stdout
    assert "next: deepseek generate" in done.stderr
    return project / "unbroken"


def result_bytes(out: Path) -> dict[str, bytes]:
    files = [*sorted((out / "checkpoints").iterdir()), out / "model/model.safetensors"]
    return {file.name: file.read_bytes() for file in files}


def test_a_killed_run_ends_in_the_same_bytes(project: Path, unbroken: Path) -> None:
    out = project / "killed"
    moments = [("pass", 8, 3), ("line", 9, 9), ("rename", 3, 15), ("renamed", 4, 24)]
    for where, count, saved in moments:
        killed = run(project, out, "--resume", dying=("SIGKILL", where, count))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        names = sorted(file.name for file in (out / "checkpoints").glob("step-*"))
        assert names[-1] == f"step-{saved:08d}.safetensors", where
    done = run(project, out, "--resume")
    assert done.returncode == 0, done.stderr
    assert "going on after step 24" in done.stderr
    assert result_bytes(out) == result_bytes(unbroken)
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (out, unbroken)
    ]
    assert [row["step"] for row in rows[0]] == list(range(42))
    for key in ("loss", "weights", "bits_per_byte"):
        assert [row.get(key) for row in rows[0]] == [row.get(key) for row in rows[1]], key


def test_a_stopped_run_saves_its_state_and_says_how_to_go_on(project: Path) -> None:
    out = project / "stopped"
    stopped = run(project, out, dying=("SIGTERM", "line", 5))
    assert stopped.returncode == 130, stopped.stderr
    assert "stopped after step 5; its state is saved" in stopped.stderr
    assert "--resume" in stopped.stderr
    assert (out / "checkpoints/step-00000005.safetensors").exists()


def test_a_run_is_not_overwritten(
    project: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(project, unbroken)) == 2
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
    argv = arguments(project, out, "--dry-run", "--set", "run.batch=8")
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
