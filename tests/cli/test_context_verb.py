"""Saving a text and asking about it, as a user types it."""

import json
from pathlib import Path

import pytest

from deepseek.cli.main import main

pytestmark = pytest.mark.weights
LICENCE = Path(__file__).parents[2] / "LICENSE"
QUESTION = "What is a Contributor?"


@pytest.fixture(scope="module")
def saved(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of the licence, saved."""
    folder = tmp_path_factory.mktemp("saved")
    text = folder / "licence.txt"
    text.write_text(LICENCE.read_text(encoding="utf-8")[:3_000], encoding="utf-8")
    out = folder / "licence.context"
    argv = ["context", "save", str(text), "--out", str(out), "--model", str(smollm2_path)]
    assert main([*argv, "--context-window", "2000"]) == 0
    return out


def test_show_says_what_is_in_it(saved, capsys):
    assert main(["context", "show", str(saved), "--verify"]) == 0
    text = capsys.readouterr().out
    for said in ("keys and values", "window of 2,000", "dense", "Apache License", "every page"):
        assert said in text


def test_generate_answers_as_with_the_whole_text(saved, smollm2_path, capsys):
    argv = ["generate", "--model", str(smollm2_path), "--max-tokens", "12", "--json"]
    assert main([*argv, QUESTION, "--context", str(saved)]) == 0
    got = json.loads(capsys.readouterr().out)
    whole = f"{(saved.parent / 'licence.txt').read_text()}\n\n{QUESTION}"
    assert main([*argv, whole, "--context-window", "2000"]) == 0
    wanted = json.loads(capsys.readouterr().out)
    assert got["token_ids"] == wanted["token_ids"]
    assert got["n_prompt_tokens"] == wanted["n_prompt_tokens"]
    assert wanted["n_reused_tokens"] == 0
    assert got["n_reused_tokens"] % 64 == 0
    assert got["n_reused_tokens"] > 0.8 * got["n_prompt_tokens"]
    attended = got["attended"]
    assert attended["window"] == attended["n_tokens"]
    assert attended["n_tokens"] == got["n_prompt_tokens"] + len(got["token_ids"]) - 1
    assert attended["tier_bytes"]["hot"] > 0


def test_its_number_format_is_taken_over(smollm2_path, tmp_path, capsys, caplog):
    text, out = tmp_path / "text.txt", tmp_path / "text.context"
    text.write_text(LICENCE.read_text(encoding="utf-8")[:1_500], encoding="utf-8")
    model = ["--model", str(smollm2_path)]
    argv = ["context", "save", str(text), "--out", str(out), "--kv-dtype", "int4"]
    assert main([*argv, *model]) == 0
    assert main(["context", "show", str(out)]) == 0
    assert "cold keys and values, int4 codes" in capsys.readouterr().out
    argv = ["generate", QUESTION, *model, "--max-tokens", "2", "--context", str(out)]
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attended"]["tier_bytes"]["cold"] > 0
    assert main([*argv, "--kv-dtype", "bfloat16"]) != 0
    assert "--kv-dtype int4" in capsys.readouterr().err


def test_chat_goes_on_from_it(saved, smollm2_path, monkeypatch, capsys, caplog):
    lines = iter([QUESTION, "/new", QUESTION, "And a Licensor?"])

    def typed(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    argv = ["chat", "--model", str(smollm2_path), "--context", str(saved), "--temperature", "0"]
    assert main([*argv, "--max-tokens", "12", "--verbose"]) == 0
    output = capsys.readouterr()
    answers = [line for line in output.out.splitlines() if line.strip()]
    assert len(set(answers)) < len(answers)  # a new conversation begins with the text again
    kept = [int(part.split()[0]) for part in output.err.split("of which ")[1:]]
    assert len(kept) == 3
    assert min(kept) >= 500
    assert kept[2] >= kept[0]  # whole pages: so short a turn need not fill one


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["context", "save", "x.txt"], "--out book.context"),
        (["context", "save", "/nowhere/x.txt", "--out", "x"], "cannot read /nowhere/x.txt"),
        (["context", "save", "x", "--out", "x", "--raw", "--system", "y"], "drop one"),
        (["context", "show", "/nowhere/x.context"], "cannot open /nowhere/x.context"),
        (["context", "show", str(LICENCE)], "does not begin like one"),
        (["generate", "Why?", "--context", str(LICENCE)], "does not begin like one"),
        (["generate", "Why?", "--context", "x", "--raw"], "neither --raw"),
        (["chat", "--context", "x", "--system", "y"], "takes no --system"),
    ],
)
def test_mistakes(argv, said, capsys):
    assert main(argv) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert "\nhint: " in output.err
    assert said in output.err


def test_another_model_is_named(saved, tiny_folder, capsys):
    assert main(["generate", "Why?", "--context", str(saved), "--model", str(tiny_folder)]) == 2
    assert "was read by" in capsys.readouterr().err


def test_a_raw_text_is_continued(smollm2_path, tmp_path, capsys):
    text = tmp_path / "count.txt"
    text.write_text("one two three four five six seven eight nine ten\n" * 20)
    out = tmp_path / "count.context"
    argv = ["context", "save", str(text), "--raw", "--out", str(out), "--model", str(smollm2_path)]
    assert main([*argv, "--context-window", "1000"]) == 0
    capsys.readouterr()
    argv = ["--context", str(out), "--model", str(smollm2_path), "--max-tokens", "3"]
    assert main(["generate", "one two three four", *argv]) == 0
    assert "five" in capsys.readouterr().out
    assert main(["chat", *argv]) == 2
    assert "no conversation" in capsys.readouterr().err
