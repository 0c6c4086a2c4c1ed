"""`deepseek data`: cleaning, the report anew, single documents."""

import json

import pytest

from deepseek.cli.main import main


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("The first text. " * 5)
    (tmp_path / "texts" / "b.txt").write_text("The first text. " * 5)
    (tmp_path / "texts" / "c.txt").write_bytes(b"\xff")
    (tmp_path / "clean.toml").write_text(
        '[sources.s]\npaths = ["texts"]\n[[operators]]\nuse = "exact"\n'
    )
    return tmp_path


def test_clean_report_and_inspect(corpus, capsys):
    out = str(corpus / "out")
    assert main(["data", "clean", str(corpus / "clean.toml"), "--out", out, "--workers", "1"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "read 2 documents, 1 records put aside",
        "exact: 1 of 2 dropped",
        "kept 1 documents",
    ]
    assert "report: " in said.err
    page = corpus / "out" / "report.html"
    first = page.read_text()
    page.unlink()
    assert main(["data", "report", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["read"] == {"s": 2}
    assert page.read_text() == first
    assert main(["data", "inspect", out, "--id", "s/b.txt"]) == 0
    said = capsys.readouterr().out
    assert "s/b.txt: dropped" in said
    assert "reason: same text as: s/a.txt" in said
    assert main(["data", "inspect", out, "--id", "s/c.txt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["where"] == "quarantine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clean", "{}/clean.toml"], "--out is missing"),
        (["clean", "{}/nothing.toml", "--out", "{}/x"], "cannot read"),
        (["report", "{}"], "holds no cleaned data"),
        (["inspect", "{}"], "--id is missing"),
        (["inspect", "{}", "--id", "x"], "holds no cleaned data"),
    ],
)
def test_mistakes_are_named(corpus, capsys, arguments, message):
    assert main(["data", *[part.format(corpus) for part in arguments]]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
