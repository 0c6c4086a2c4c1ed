"""`--adapter`, as a user types it: one prompt, a saved text, a conversation."""

import json
from pathlib import Path

import pytest

from deepseek.cli.main import main
from peft_adapter import random_adapter
from tiny_checkpoint import tiny_config

LICENCE = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
MOST = ["--max-tokens", "6"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return str(random_adapter(tmp_path_factory.mktemp("adapters") / "sql", tiny_config()))


def answer(capsys, *argv):
    assert main(["generate", "Name a city.", *MOST, "--json", *argv]) == 0
    return json.loads(capsys.readouterr().out)["token_ids"]


def test_generate_answers_with_it(tiny_folder, adapter, tmp_path, capsys):
    model = ["--model", str(tiny_folder)]
    assert answer(capsys, *model, "--adapter", adapter) != answer(capsys, *model)
    assert main(["generate", "x", *model, "--adapter", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "holds no adapter_model.safetensors" in error
    assert "hint: " in error


def test_a_saved_text_is_taken_up_with_the_same_one(tiny_folder, adapter, tmp_path, capsys):
    model, text = ["--model", str(tiny_folder)], tmp_path / "text.txt"
    text.write_text(LICENCE[:900], encoding="utf-8")
    with_it, without = str(tmp_path / "with.context"), str(tmp_path / "without.context")
    save = ["context", "save", str(text), *model]
    assert main([*save, "--out", with_it, "--adapter", adapter]) == 0
    assert main([*save, "--out", without]) == 0
    assert main(["context", "show", with_it]) == 0
    assert "adapter    sql (" in capsys.readouterr().out
    both = answer(capsys, *model, "--context", with_it, "--adapter", adapter)
    assert both != answer(capsys, *model, "--context", without)
    for saved, options, message in (
        (with_it, [], "was read with an adapter named 'sql'"),
        (without, ["--adapter", adapter], "was read without an adapter"),
    ):
        assert main(["generate", "x", *model, *MOST, "--context", saved, *options]) == 2
        assert message in capsys.readouterr().err


def test_chat_talks_with_it(tiny_folder, adapter, monkeypatch, capsys):
    said = []
    for options in ([], ["--adapter", adapter]):
        lines = iter(["Hello", "And then?"])
        monkeypatch.setattr("builtins.input", lambda _, lines=lines: next(lines, None) or _end())
        argv = ["chat", "--model", str(tiny_folder), *MOST, "--temperature", "0"]
        assert main([*argv, *options]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] != said[1]


def _end():
    raise EOFError
