"""Records for tuning: all forms are read, and what is no good is put aside with a reason."""

import json
from pathlib import Path

import pytest

from deepseek.core.errors import DocumentError
from deepseek.core.llm import Message
from deepseek.data.records import (
    BadRecord,
    Quarantine,
    conversation_of,
    pair_of,
    prompt_of,
    read_records,
    record_files,
)

USER, ANSWER = Message("user", "why?"), Message("assistant", "because")
TURNS = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "because"}]


@pytest.mark.parametrize(
    "values",
    [
        {"messages": TURNS},
        {"prompt": "why?", "completion": "because"},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"prompt": TURNS[:1], "completion": TURNS},
    ],
)
def test_conversations(values: dict) -> None:
    assert conversation_of(values) == [USER, ANSWER]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({}, "neither messages nor"),
        ({"messages": []}, "no list of messages"),
        ({"messages": TURNS[:1]}, "no message is an assistant's"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role 'robot'"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "role"),
        ({"messages": [{"role": "user"}]}, "no content"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": " "}]}, "is empty"),
        ({"prompt": " ", "completion": "x"}, "prompt is empty"),
        ({"prompt": "x", "completion": 7}, "completion is no text"),
        ({"prompt": TURNS, "completion": "x"}, "ends with an assistant"),
        ({"prompt": "other", "completion": TURNS}, "no answer to prompt"),
    ],
)
def test_bad_conversations_say_why(values: dict, why: str) -> None:
    with pytest.raises(BadRecord, match=why):
        conversation_of(values)


def test_pairs() -> None:
    values = {"prompt": "why?", "chosen": "because", "rejected": [*TURNS[:1], TURNS[1]]}
    with pytest.raises(BadRecord, match="the same"):
        pair_of(values)
    assert pair_of(values | {"rejected": "no"}) == ([USER], ANSWER, Message("assistant", "no"))
    with pytest.raises(BadRecord, match="no rejected"):
        pair_of({"prompt": "why?", "chosen": "because"})
    assert prompt_of({"prompt": TURNS[:1]}) == [USER]


def test_lines_that_are_no_records_are_put_aside_with_their_place(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    good = json.dumps({"prompt": "a", "completion": "b"})
    file.write_bytes(f'{good}\n\nnot json\n[1]\n{good}\n"x'.encode() + b"\xff\n")
    quarantine = Quarantine()
    found = list(read_records(record_files(tmp_path), quarantine))
    assert [record.place for record in found] == ["some.jsonl:1", "some.jsonl:5"]
    assert quarantine.n_read == 5
    assert [(place, reason.split(":")[0]) for place, reason, _ in quarantine.bad] == [
        ("some.jsonl:3", "no JSON"),
        ("some.jsonl:4", "no JSON object"),
        ("some.jsonl:6", "no JSON"),
    ]
    rows = [json.loads(line) for line in quarantine.lines().splitlines()]
    assert rows[0]["record"] == "not json\n"
    with pytest.raises(DocumentError, match="does not exist"):
        record_files(tmp_path / "nowhere")
