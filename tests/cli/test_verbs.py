"""The verbs on the small real checkpoint, as a user types them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deepseek.cli.main import main
from deepseek.ops import native

pytestmark = pytest.mark.weights
PAPER = Path(__file__).parents[1] / "apps" / "papers" / "paper.md"


def test_generate_prints_the_answer_only_on_stdout(smollm2_path, capsys):
    argv = ["generate", "--raw", "The capital of France is", "--model", str(smollm2_path)]
    assert main([*argv, "--max-tokens", "8"]) == 0
    assert "Paris" in capsys.readouterr().out


def test_generate_reports_json(smollm2_path, capsys):
    argv = ["generate", "1, 2, 3, 4,", "--model", str(smollm2_path), "--max-tokens", "4"]
    assert main([*argv, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["finish_reason"] == "length"


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "big": {"type": "boolean"}},
    "required": ["city", "big"],
    "additionalProperties": False,
}


def test_generate_answers_in_a_form(tiny_folder, tmp_path, capsys):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    argv = ["generate", "Name a city as JSON.", "--model", str(tiny_folder), "--max-tokens", "60"]
    assert main([*argv, "--json-schema", str(file)]) == 0
    value = json.loads(capsys.readouterr().out)
    assert list(value) == ["city", "big"]
    assert main([*argv, "--choice", "Paris, Rome"]) == 0
    assert capsys.readouterr().out.strip() in ("Paris", "Rome")
    assert main([*argv, "--regex", "[A-Z]{3}", "--logit-bias", "33=-100"]) == 0
    assert re.fullmatch("[A-Z]{3}", capsys.readouterr().out.strip())
    assert main([*argv[:-1], "1", "--choice", "a choice of many words"]) == 0
    assert "the choice is not complete: length" in capsys.readouterr().err
    assert main([*argv, "--json-object", "--seed", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"].startswith("{")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json-schema", "nowhere.json"], "cannot read nowhere.json"),
        (["--json-schema", "SCHEMA"], "Invalid type: strnig"),
        (["--regex", "(a"], "the regular expression cannot be used"),
        (["--choice", "a,,b"], "a choice is empty"),
        (["--logit-bias", "x"], "--logit-bias is 'x'"),
        (["--presence-penalty", "9"], "presence_penalty is 9.0"),
    ],
)
def test_a_wrong_form_is_told_before_a_model_is_loaded(options, message, tmp_path, capsys):
    file = tmp_path / "schema.json"
    file.write_text('{"type": "strnig"}')
    options = [str(file) if option == "SCHEMA" else option for option in options]
    assert main(["generate", "x", "--model", "no-such-model", *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "hint: " in said


def test_chat_answers_piped_lines(smollm2_path):
    run = subprocess.run(
        [
            *(sys.executable, "-m", "deepseek", "chat", "--model", str(smollm2_path)),
            *("--temperature", "0", "--max-tokens", "12"),
        ],
        input="Say hello.\n/new\nSay hello.\n",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        check=True,
        timeout=300,
    )
    lines = [line for line in run.stdout.splitlines() if line.strip()]
    assert len(lines) >= 2
    assert lines[0] == lines[len(lines) // 2]  # a new conversation answers alike


@pytest.mark.parametrize("suffix", [".md", ".json", ".html"])
def test_papers_writes_each_format(smollm2_path, tmp_path, suffix, capsys):
    out = tmp_path / "new folder" / f"report{suffix}"
    argv = ["papers", "analyze", str(PAPER), "--model", str(smollm2_path), "--out", str(out)]
    assert main([*argv, "--tasks", "limitations", "--ask", "Which GPU was used"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    text = out.read_text(encoding="utf-8")
    assert "Which GPU was used?" in text
    assert ("Read as a whole: " in text) or '"extent": "whole"' in text
    assert list(out.parent.iterdir()) == [out]  # nothing half-written is left behind


def test_papers_refuses_a_place_that_cannot_be_written(smollm2_path, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / "report.md"
    argv = ["papers", "analyze", str(PAPER), "--model", str(smollm2_path), "--out", str(out)]
    assert main([*argv, "--tasks", "limitations"]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_models_and_doctor_report(smollm2_path, capsys):
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"smollm2-135m", "qwen2.5-coder-1.5b", "all-minilm-l6-v2", "paper-attention"} <= {
        row["name"] for row in rows
    }
    assert main(["doctor", "--load", "--model", str(smollm2_path)]) == 0
    text = capsys.readouterr().out
    assert "peak" in text
    assert "threads" in text


@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
def test_doctor_and_verbose_tell_what_a_memory_budget_is_for(smollm2_path, capsys):
    """Numbers add up to the budget, with a draft model in it."""
    model = ["--model", str(smollm2_path), "--context-window", "1024", "--threads", "1"]
    model += ["--memory-budget", "8GiB", "--draft-model", str(smollm2_path)]
    assert main(["doctor", "--load", "--json", *model]) == 0
    plan = json.loads(capsys.readouterr().out)["memory plan"]
    assert plan.pop("memory budget") == 8 << 30 == sum(plan.values())
    assert plan["draft model"] == plan["weights"] > 90_000_000
    assert main(["generate", "Hello", "--max-tokens", "2", "--verbose", *model]) == 0
    text = capsys.readouterr().err
    assert f"{8 << 30:,} bytes" in text
    assert "its keys and values" in text
