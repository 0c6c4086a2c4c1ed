"""What was finished survives: kills, half-written lines, another run's journal."""

from dataclasses import asdict
from pathlib import Path

import pytest

from deepseek.core.errors import RequestError
from deepseek.eval.journal import Journal, fingerprint
from deepseek.eval.record import Record


def record(name: str, **values: object) -> Record:
    fields = {"group": "g", "prompt": "p", "prompt_sha256": "0" * 64, "expected": {"gold": 1}}
    return Record(id=name, scores=((-1.5, 2, True),), grades={"acc": 1.0}, **{**fields, **values})


def write(path: Path, run: str, *names: str) -> None:
    with Journal(path, run) as journal:
        for name in names:
            journal.add(record(name))


def test_the_same_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    write(path, "run", "a", "b")
    write(path, "run", "c")
    with Journal(path, "run") as journal:
        assert list(journal.records) == ["a", "b", "c"]
        assert asdict(journal.records["b"]) == asdict(record("b"))


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, "run", "a", "b")
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path, "run") as journal:
        assert list(journal.records) == ["a"]
        journal.add(record("b"))
    with Journal(path, "run") as journal:
        assert list(journal.records) == ["a", "b"]


@pytest.mark.parametrize("line", ["nonsense\n", "[1, 2]\n", '{"id": "x"}\n', "\x00\n"])
def test_a_damaged_line_and_what_follows_is_asked_again(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, "run", "a")
    whole = path.read_text()
    path.write_text(whole + line + whole.splitlines(keepends=True)[-1])
    with Journal(path, "run") as journal:
        assert list(journal.records) == ["a"]


def test_another_run_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, "one", "a")
    before = path.read_bytes()
    with Journal(path, "two") as journal:
        assert journal.records == {}
    assert (tmp_path / "journal.old.jsonl").read_bytes() == before


def test_fresh_forgets(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, "run", "a")
    with Journal(path, "run", fresh=True) as journal:
        assert journal.records == {}


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot write"):
        Journal(tmp_path / "file" / "journal.jsonl", "run")


def test_lone_surrogates_are_kept_as_text(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, "run") as journal:
        journal.add(record("a", output="broken \ud800"))
    with Journal(path, "run") as journal:
        assert journal.records["a"].output == "broken ?"


def test_fingerprints_tell_runs_apart() -> None:
    assert fingerprint("a", 1) == fingerprint("a", 1)
    assert len({fingerprint("a", 1), fingerprint("a", 2), fingerprint("a1"), fingerprint()}) == 4
