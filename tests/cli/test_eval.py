"""`deepseek eval` on the tiny checkpoint and real items: scores, resuming, comparing, mistakes."""

import json
from pathlib import Path

import pytest

from deepseek.cli.main import main
from deepseek.eval.tasks.table import TASKS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Journals go to a folder of their own, not to the user's; the pulled data stays."""
    from deepseek.weights.pull import ensure

    data = ensure("evaluation-data").path
    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    (models / "evaluation-data").symlink_to(data.parent, target_is_directory=True)
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    return tmp_path


def test_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TASKS)


def test_a_run_is_reported_resumed_compared_and_shown(
    here: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(tiny_folder), "--dtype", "float32", "--threads", "1"]
    report, page = here / "a.json", here / "a.html"
    command = ["eval", "piqa,arc_easy", *common, "--limit", "6", "--json", str(report)]
    assert main([*command, "--html", str(page)]) == 0
    shown = capsys.readouterr()
    first = json.loads(report.read_text())
    assert [run["task"] for run in first["runs"]] == ["piqa", "arc_easy"]
    assert "6 of 1,838 items" in shown.out
    assert "Question: {goal}" in shown.out or "lm-eval" in shown.out  # the protocol is printed
    assert "computed in float32" in first["weights"]
    assert all(len(run["records"]) == 6 for run in first["runs"])
    assert first["runs"][0]["records"][0]["id"] in page.read_text()
    # The same command again asks nothing anew.
    assert main(command) == 0
    second = json.loads(report.read_text())
    assert [r["seconds"] for r in second["runs"][0]["records"]] == [
        r["seconds"] for r in first["runs"][0]["records"]
    ]
    capsys.readouterr()
    assert main(["eval", "compare", str(report), str(report), "--json", str(here / "c.json")]) == 0
    assert "piqa" in capsys.readouterr().out
    assert json.loads((here / "c.json").read_text())
    assert main(["eval", "page", str(report), "--out", str(here / "b.html")]) == 0
    assert first["runs"][0]["records"][0]["id"] in (here / "b.html").read_text()


def test_generated_answers_through_transformers(
    here: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "humaneval_completion", "--model", str(tiny_folder), "--limit", "1"]
    command += ["--dtype", "float32", "--threads", "1", "--json"]
    assert main([*command, str(here / "ours.json")]) == 0
    assert "programs run confined by" in capsys.readouterr().err
    assert main([*command, str(here / "theirs.json"), "--backend", "transformers"]) == 0
    ours, theirs = (json.loads((here / f"{x}.json").read_text()) for x in ("ours", "theirs"))
    assert [r["output"] for r in ours["runs"][0]["records"]] == [
        r["output"] for r in theirs["runs"][0]["records"]
    ]


def test_fidelity_to_itself_is_perfect(
    here: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = here / "text.txt"
    text.write_text("You may reproduce and distribute copies of the Work.\n" * 20)
    common = ["--data", str(text), "--model", str(tiny_folder), "--dtype", "float32"]
    report = here / "f.json"
    command = ["eval", "fidelity", *common, "--lengths", "64", "--json", str(report)]
    assert main([*command, "--against", str(tiny_folder)]) == 0
    summary = json.loads(report.read_text())["runs"][0]["summary"]
    assert summary["top1_agreement"]["value"] == 1.0
    assert summary["kl_nats"]["value"] == pytest.approx(0.0, abs=1e-9)
    capsys.readouterr()
    assert main(command) == 2
    assert "--against" in capsys.readouterr().err
    assert main(["eval", "perplexity", *common]) == 0
    assert "bits_per_byte" in capsys.readouterr().out


def test_the_layers_of_the_sandbox_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "sandbox"]) == 0
    assert "on " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["mmlu_close"], "did you mean mmlu_cloze"),
        (["mmlu", "--shots", "9"], "--shots takes 0 to 5"),
        (["mmlu", "--limit", "0"], "--limit is 0"),
        (["mmlu", "hellaswag"], "commas"),
        (["longbench"], "--data"),
        (["longbench", "--data", "/nowhere"], "/nowhere"),
        (["perplexity", "--data", "/nowhere.txt"], "/nowhere.txt"),
        (["passkey", "--lengths", "many"], "--lengths many"),
        (["piqa", "--json", "/nowhere/a.json"], "no folder"),
        (["compare", "a.json"], "two reports"),
        (["compare", "/nowhere/a.json", "/nowhere/b.json"], "cannot read"),
        (["page", __file__], "not valid JSON"),
    ],
)
def test_mistakes(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *argv]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert "hint: " in output.err
    assert said in output.err
    assert "Traceback" not in output.err
