"""The log of users' feedback: checked line by line, turned into records and pairs."""

import json
from pathlib import Path
from typing import Any

import pytest

from deepseek.core.errors import ConfigError
from deepseek.data.contamination import ContaminationIndex
from deepseek.data.documents import Funnel, documents
from deepseek.data.feedback import FeedbackData, feedback_data, read_feedback
from deepseek.data.lines import write_lines

Q = "What is the capital of France?"


def data_of(tmp_path: Path, *rows: dict[str, Any], **more: Any) -> FeedbackData:
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return feedback_data(list(read_feedback(file)), **more)


def said(pair: dict[str, Any]) -> tuple[str, str]:
    return pair["chosen"][0]["content"], pair["rejected"][0]["content"]


def test_corrections_and_ratings_become_records_and_pairs(tmp_path: Path) -> None:
    data = data_of(
        tmp_path,
        {"prompt": Q, "answer": "Rome.", "correction": "Paris.", "id": "7", "user": "secret"},
        {"prompt": Q, "answer": "It is Paris.", "rating": "good", "model": "tiny"},
        {"prompt": Q, "answer": "Lyon.", "rating": "bad"},
        {"prompt": "Another question", "answer": "Nothing.", "rating": "bad"},
    )
    assert [row["messages"][-1]["content"] for row in data.records] == ["Paris.", "It is Paris."]
    assert [said(pair) for pair in data.pairs] == [("Paris.", "Rome."), ("It is Paris.", "Lyon.")]
    assert data.pairs[0]["provenance"] == {
        "source": "feedback",
        "place": "log.jsonl:1",
        "id": "7",
        "model": "",
    }
    assert "secret" not in json.dumps([data.records, data.pairs])
    write_lines(tmp_path / "records.jsonl", data.records)
    assert [d.text for d in documents([tmp_path / "records.jsonl"], Funnel())] == [
        f"{Q}\nParis.",
        f"{Q}\nIt is Paris.",
    ]


def test_conversations_keep_their_turns(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": Q},
    ]
    data = data_of(tmp_path, {"prompt": turns, "answer": "Paris.", "rating": "good"})
    assert data.records[0]["messages"] == [*turns, {"role": "assistant", "content": "Paris."}]
    assert data.pairs == []


def test_disputed_repeated_and_evaluation_lines_are_left_out(tmp_path: Path) -> None:
    item = "Which of these seven planets has the longest day, measured from one sunrise to another?"
    data = data_of(
        tmp_path,
        {"prompt": Q, "answer": "Paris.", "rating": "good"},
        {"prompt": Q, "answer": "Paris.", "rating": "bad"},
        {"prompt": Q, "answer": "Lyon.", "rating": "bad"},
        {"prompt": Q, "answer": "Lyon.", "rating": "bad"},
        {"prompt": item, "answer": "Venus.", "rating": "good"},
        index=ContaminationIndex.build([("quiz", item)]),
    )
    assert (data.read, data.repeated, data.contaminated, data.disputed) == (5, 1, 1, 1)
    assert data.records == data.pairs == []


def test_one_prompt_makes_few_pairs(tmp_path: Path) -> None:
    rows = [{"prompt": Q, "answer": f"good {i}", "rating": "good"} for i in range(5)]
    rows += [{"prompt": Q, "answer": f"bad {i}", "rating": "bad"} for i in range(5)]
    assert len(data_of(tmp_path, *rows).pairs) == 4


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": Q, "answer": "x"}, "neither rating nor correction"),
        ({"prompt": Q, "answer": "x", "rating": "great"}, "rating is 'great'"),
        ({"prompt": Q, "answer": "x", "rating": "good", "correction": "y"}, "good and corrected"),
        ({"prompt": Q, "answer": "", "rating": "bad"}, "the answer is empty"),
        ({"prompt": Q, "answer": 3, "rating": "bad"}, "answer is no text"),
        ({"prompt": 3, "answer": "x", "rating": "bad"}, "no text and no conversation"),
        ({"prompt": "  ", "answer": "x", "rating": "bad"}, "does not end with a user's words"),
        (
            {"prompt": [{"role": "boss", "content": "x"}], "answer": "x", "rating": "bad"},
            "no conversation",
        ),
        ({"prompt": [{"role": "user"}], "answer": "x", "rating": "bad"}, "no conversation"),
        ({"prompt": Q, "answer": "x", "ratng": "bad"}, "unknown field 'ratng'"),
    ],
)
def test_a_malformed_line_is_named(row: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log\.jsonl:2: ") as caught:
        data_of(tmp_path, {"prompt": Q, "answer": "x", "rating": "bad"}, row)
    assert why in caught.value.message
    assert caught.value.hint
