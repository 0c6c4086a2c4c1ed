import importlib
import re
import shlex

import pytest

from deepseek.cli.main import VERBS, main, parser_of


@pytest.mark.parametrize("verb", VERBS)
def test_help_opens_with_a_sentence_and_two_examples(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    body = text.split("\n\n", 1)[1]
    assert re.match(r"[A-Z][^\n]*[.:]", body)
    examples = body.split("examples:\n", 1)[1].split("\n\n", 1)[0].splitlines()
    assert len(examples) == 2
    for example in examples:
        assert f"deepseek {verb}" in example


@pytest.mark.parametrize("verb", VERBS)
def test_examples_parse(verb):
    parser = parser_of(verb)
    for example in importlib.import_module(f"deepseek.cli.{verb}").EXAMPLES:
        command = example.split("| ")[-1]
        args = parser.parse_args(shlex.split(command)[2:])
        assert callable(args.run)


def test_the_overview_lists_every_verb(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in VERBS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"deepseek \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["pul"], "did you mean deepseek pull"),
        (["generate", "--temprature", "1"], "--help"),
        (["papers", "analyze"], "no paper was named"),
        (["papers", "analyze", "x.pdf", "--out", "x.doc"], "unknown format"),
        (["papers", "analyze", "x.pdf", "--tasks", "sumary"], "did you mean summary"),
        (["papers", "analyze", "/nowhere/x.pdf"], "cannot read /nowhere/x.pdf"),
        (["generate", "hello", "--model", "/nowhere/x.gguf"], "/nowhere/x.gguf"),
        (["pull", "smollm3-135m"], "smollm2-135m"),
        (["train", "/nowhere/x.toml", "--out", "x"], "cannot read /nowhere/x.toml"),
    ],
)
def test_mistakes_give_error_and_hint_and_no_traceback(argv, said, capsys):
    try:
        status = main(argv)
    except SystemExit as stopped:
        status = stopped.code
    output = capsys.readouterr()
    assert status == 2
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert "\nhint: " in output.err
    assert said in output.err
    assert "Traceback" not in output.err
