"""`deepseek data` on the tiny checkpoint: problems, questions and feedback, and mistakes."""

import json
from pathlib import Path

import pytest

from deepseek.cli.main import main


def test_families_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "families"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"words/story", "programs/lists", "gym/chain_sum"} <= set(names)
    assert main(["data", "families", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == names


def test_tasks_need_no_file(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["data", "synthesize", "--tasks", "words/story", "--levels", "0", "--count", "4"]
    argv += ["--set", "sampling.max_tokens=4", "--set", "sampling.samples=4"]
    argv += ["--set", "problems.held_out=0.0", "--set", "selection.unsolved=true"]
    argv += ["--model", str(tiny_folder), "--threads", "1", "--out", str(tmp_path / "out")]
    assert main([*argv, "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["counts"]["attempted"] == 4
    assert found["model"]["fingerprint"]
    assert "next: " in shown.err
    hard = (tmp_path / "out" / "hard.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(hard) == found["counts"]["hard"] > 0
    assert "words/story" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_questions_are_measured(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    file.write_text('{"question": "What is 1 + 1?", "answer": 2}\n', encoding="utf-8")
    argv = ["data", "entropy", str(file), "--out", str(out), "--model", str(tiny_folder)]
    argv += ["--threads", "1", "--max-tokens", "4", "--samples", "3"]
    for by in ("number", "vectors"):
        assert main([*argv, "--by", by]) == 0
        row = json.loads(out.read_text(encoding="utf-8"))
        assert row["semantic_entropy"]["n_samples"] <= 3
    assert "1 questions" in capsys.readouterr().out


def test_feedback_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"prompt": "a", "answer": "b", "correction": "c"}\n', encoding="utf-8")
    assert main(["data", "feedback", str(log), "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 1
    assert json.loads((tmp_path / "out" / "pairs.jsonl").read_text())["prompt"][0]["content"] == "a"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["synthesize", "--tasks", "words/story"], "it is not said where to write"),
        (["synthesize", "--out", "x"], "it is not said which problems"),
        (["synthesize", "/nowhere.toml", "--out", "x"], "cannot read /nowhere.toml"),
        (["synthesize", "--tasks", "words/storry", "--out", "x"], "did you mean words/story"),
        (
            ["synthesize", "--tasks", "words/story", "--levels", "x", "--out", "x"],
            "problems.levels",
        ),
        (["entropy", "--out", "x"], "none is named"),
        (["entropy", "/nowhere.jsonl", "--out", "x"], "cannot read /nowhere.jsonl"),
        (["feedback", "/nowhere.jsonl", "--out", "x"], "cannot read /nowhere.jsonl"),
        (["feedback", "--out", "x"], "none is named"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", *argv, "--model", "no-such-model"][: len(argv) + 3]) == 2
    assert said in capsys.readouterr().err
