"""Documents come once, readable, on one side of the held-out line, without evaluation texts."""

import json
from pathlib import Path

import pytest

from deepseek.core.errors import DocumentError
from deepseek.data.contamination import ContaminationIndex
from deepseek.data.documents import Funnel, documents

ITEM = "Which of these seven planets has the longest day, measured from one sunrise to another?"


def write(folder: Path, **texts: str) -> list[Path]:
    files = []
    for name, text in texts.items():
        files.append(folder / f"{name}.txt")
        files[-1].write_text(text, encoding="utf-8")
    return files


def test_each_kind_is_counted(tmp_path: Path) -> None:
    files = write(tmp_path, a="one text", b="one text", c="  ", d=f"Quiz. {ITEM} Venus.")
    (tmp_path / "e.txt").write_bytes(b"\xff\xfe\xff")
    index = ContaminationIndex.build([("quiz", ITEM)])
    funnel = Funnel()
    kept = [d.text for d in documents([*files, tmp_path / "e.txt"], funnel, index=index)]
    assert kept == ["one text"]
    assert (funnel.read, funnel.unreadable, funnel.repeated) == (5, 2, 1)
    assert (funnel.contaminated, funnel.kept) == (1, 1)


def test_contamination_can_be_refused(tmp_path: Path) -> None:
    files = write(tmp_path, d=f"Quiz. {ITEM} Venus.")
    index = ContaminationIndex.build([("quiz", ITEM)])
    with pytest.raises(DocumentError, match=r"d\.txt repeats a text of quiz"):
        list(documents(files, Funnel(), index=index, refuse=True))


def test_lines_of_json_are_documents(tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"text {i}"}) for i in range(3)))
    assert [d.text for d in documents([file], Funnel())] == ["text 0", "text 1", "text 2"]
    file.write_text('{"text": "good"}\n{"txt": 1}\n')
    with pytest.raises(DocumentError, match=r"many\.jsonl:2"):
        list(documents([file], Funnel()))


def test_held_out_texts_do_not_depend_on_their_neighbours(tmp_path: Path) -> None:
    files = write(tmp_path, **{f"f{i}": f"text number {i}" for i in range(200)})
    found = {d.text: d.is_held_out for d in documents(files, Funnel(), held_out=0.2)}
    alone = {d.text: d.is_held_out for f in files for d in documents([f], Funnel(), held_out=0.2)}
    assert found == alone
    assert 20 <= sum(found.values()) <= 60


def test_difficulty_rises_with_variety(tmp_path: Path) -> None:
    files = write(tmp_path, dull="the same words " * 50, rich=" ".join(map(str, range(0, 9000, 7))))
    dull, rich = documents(files, Funnel())
    assert dull.difficulty < rich.difficulty


def test_conversations_are_documents_with_messages(tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    rows = [{"prompt": "Hello", "completion": "Hi."}, {"prompt": ITEM, "completion": "Venus."}]
    file.write_text("\n".join(map(json.dumps, [*rows, rows[0]])))
    funnel, index = Funnel(), ContaminationIndex.build([("quiz", ITEM)])
    (only,) = documents([file], funnel, index=index, conversations=True)
    assert only.text == "Hello\n\nHi."
    assert [(m.role, m.content) for m in only.messages] == [("user", "Hello"), ("assistant", "Hi.")]
    assert (funnel.repeated, funnel.contaminated, funnel.kept) == (1, 1, 1)
    file.write_text('{"messages": [{"role": "user", "content": "Hello"}]}\n')
    with pytest.raises(DocumentError, match=r"talk\.jsonl:1 is no conversation: no message is"):
        list(documents([file], Funnel(), conversations=True))
