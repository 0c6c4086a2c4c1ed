"""Where RULER's texts come from: the evaluation data, or files of the user."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from deepseek.core.errors import RequestError
from deepseek.eval.ruler import sources as module
from deepseek.eval.ruler.sources import Sources
from deepseek.eval.task import Setup

SQUAD = {
    "data": [
        {
            "title": "T",
            "paragraphs": [
                {
                    "context": "One passage.",
                    "qas": [
                        {"question": "Q?", "answers": [{"text": "a"}, {"text": "a"}]},
                        {"question": "Impossible?", "answers": []},
                    ],
                }
            ],
        }
    ]
}
HOTPOT = [
    {"question": "H?", "answer": "yes", "context": [["T1", ["One.", " Two."]], ["T2", ["Three."]]]}
]


def sources(folder: Path | None, evaluation_data: Path | None = None) -> Sources:
    return Sources(Setup(shots=0, folder=folder, evaluation_data=evaluation_data))


def test_texts_of_the_evaluation_data(evaluation_data: Path) -> None:
    found = sources(None, evaluation_data)
    assert len(found.squad.inquiries) == 1_000
    first = found.squad.inquiries[0]
    assert first.question == 'Harvard - Yale Regatta predates "The Game" by how many years?'
    assert first.answers == ("23 years", "23")
    assert first.passages[0].startswith("Older than The Game by 23 years, the Harvard-Yale Regatta")
    assert first.topic == "Harvard_University"
    assert all(
        answer in asked.passages[0] for asked in found.squad.inquiries for answer in asked.answers
    )
    short = found.essay(1_000)
    assert len(short) == 1_000
    assert found.essay(500) == short[:500]
    # Papers follow when the passages are used up, and only then the text begins again.
    long = found.essay(900_000)
    assert long[:1_000] == short
    assert len(long) == 900_000
    assert long[500_000:501_000] != short
    assert found.haystack == "SQuAD and Qasper"


def test_files_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "squad.json").write_text(json.dumps(SQUAD), encoding="utf-8")
    (tmp_path / "hotpotqa.json").write_text(json.dumps(HOTPOT), encoding="utf-8")
    (tmp_path / "essay.txt").write_text("One two\n three.", encoding="utf-8")
    found = sources(tmp_path)
    assert [(q.question, q.answers, q.passages) for q in found.squad.inquiries] == [
        ("Q?", ("a",), ("One passage.",))
    ]
    assert found.hotpot is not None
    assert found.hotpot.inquiries[0].passages == ("T1\nOne. Two.", "T2\nThree.")
    assert found.essay(7) == ["One", "two", "three.", "One", "two", "three.", "One"]
    assert found.haystack == "essay.txt"
    (tmp_path / "PaulGrahamEssays.json").write_text('{"text": "An essay."}', encoding="utf-8")
    assert sources(tmp_path).essay(2) == ["An", "essay."]
    assert sources(tmp_path / "essay.txt").essay(2) == ["One", "two"]


def test_what_is_missing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="deepseek"):
        assert sources(None).hotpot is None
        assert "qa_2: it needs HotpotQA; give --data with hotpotqa.json" in caplog.text
        caplog.clear()
        sources(tmp_path)
        assert "finds nothing for itself" in caplog.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("squad.json", "{"),
        ("squad.json", "[]"),
        ("squad.json", '{"data": []}'),
        ("squad.json", '{"data": [{"title": "T"}]}'),
        ("hotpotqa.json", '[{"question": "?", "answer": "a", "context": ["x"]}]'),
        ("hotpotqa.json", "[]"),
        ("PaulGrahamEssays.json", '{"text": 3}'),
        ("PaulGrahamEssays.json", '{"words": ""}'),
        ("essay.txt", " \n"),
        ("essay.txt", b"\xff\xfe"),
    ],
)
def test_mistakes_in_files(tmp_path: Path, name: str, content: Any) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    found = sources(tmp_path)
    with pytest.raises(RequestError, match=name) as error:
        _ = (found.hotpot, found.squad if name == "squad.json" else found.essay(1))
    assert "--data" in error.value.hint


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 1 << 20)
    (tmp_path / "essay.txt").write_text("x" * ((1 << 20) + 1), encoding="utf-8")
    with pytest.raises(RequestError, match="more than 1 MiB"):
        sources(tmp_path).essay(1)
