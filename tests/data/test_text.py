"""Files as windows of token ids."""

from pathlib import Path

import pytest

from deepseek.core.errors import DocumentError
from deepseek.data.contamination import ContaminationIndex
from deepseek.data.text import text_files, windows


def encode(text: str) -> list[int]:
    return [ord(c) for c in text]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(chr(ord("a") + i) * (30 + i), encoding="utf-8")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "code.py").write_text("z" * 40, encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "broken.txt").write_bytes(b"\xff\xfe\xfd" * 50)
    return tmp_path


def test_files_of_text_in_order(folder: Path) -> None:
    found = text_files([folder])
    assert len(found) == 22
    assert folder / "deep" / "code.py" in found
    assert folder / "picture.png" not in found
    assert text_files([folder / "picture.png"]) == [folder / "picture.png"]
    with pytest.raises(DocumentError, match="does not exist"):
        text_files([folder / "missing"])


def test_sets_have_no_file_in_common(folder: Path) -> None:
    files = text_files([folder])
    kept, read = windows(files, encode, size=8, counts=(4, 10))
    assert [len(w) for w in kept + read] == [8] * 14
    assert not {t for w in kept for t in w} & {t for w in read for t in w}
    assert windows(files, encode, size=8, counts=(4, 10)) == [kept, read]
    assert windows(files, encode, size=8, counts=(4, 10), seed=1) != [kept, read]
    of_one_file = [
        sum(token == t for w in read for t in w) for token in {t for w in read for t in w}
    ]
    assert max(of_one_file) <= 16


def test_too_little_text(folder: Path) -> None:
    with pytest.raises(DocumentError, match="too little"):
        windows(text_files([folder]), encode, size=8, counts=(1_000,))


def test_evaluation_texts_are_left_out(tmp_path: Path) -> None:
    item = "The quick brown fox jumps over one lazy dog while seven small birds look on from above."
    index = ContaminationIndex.build([("task", item)])
    (tmp_path / "a.txt").write_text(f"Before. {item} After.", encoding="utf-8")
    (tmp_path / "b.txt").write_text("x" * 100, encoding="utf-8")
    files = text_files([tmp_path])
    (found,) = windows(files, encode, size=10, counts=(2,), index=index)
    assert {t for w in found for t in w} == {ord("x")}
    with pytest.raises(DocumentError):
        windows(files[:1], encode, size=10, counts=(2,), index=index)
