"""RULER's thirteen tasks at given lengths."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from word_model import WordModel

from deepseek.core.errors import RequestError
from deepseek.core.llm import Message
from deepseek.eval.task import Question, Setup
from deepseek.eval.tasks.ruler import NAMES, TASK

LENGTHS = (600, 4_096)


@pytest.fixture(scope="module")
def setup(evaluation_data: Path) -> Setup:
    return Setup(shots=0, evaluation_data=evaluation_data, model=WordModel(), lengths=LENGTHS)


@pytest.fixture(scope="module")
def items(setup: Setup) -> list[Question]:
    return list(TASK.items(setup))


def test_ten_items_for_each_task_and_length(items: list[Question]) -> None:
    without = [name for name in NAMES if name != "qa_2"]
    assert len(without) == 12
    assert list(Counter(item.group for item in items).items()) == [
        (f"{name}/{length}", 10) for name in without for length in LENGTHS
    ]
    assert len({item.id for item in items}) == len(items) == len({str(i.prompt) for i in items})
    assert all(json.loads(json.dumps(item.reference)) == item.reference for item in items)


def test_prompts_fill_their_length(items: list[Question]) -> None:
    for item in items:
        name, length = item.group.split("/")
        total = len(str(item.prompt).split()) + item.max_tokens
        assert total <= int(length)
        # One sentence, needle or word more would not fit, or one document, which can be long.
        spare = {"qa_1": 500, "cwe": 60, "fwe": 60}.get(name, 30)
        assert total > int(length) - spare, item.id


def test_the_answer_is_in_the_text_and_scores_100(items: list[Question]) -> None:
    for item in items:
        outputs = item.reference["outputs"]
        assert all(output in item.prompt for output in outputs)
        assert TASK.grade(item, f" {', '.join(outputs)}.") == {"score": pytest.approx(100)}
        assert TASK.grade(item, "") == {"score": 0}
        half = {"score": 100} if item.group.startswith("qa") else {"score": 100 / len(outputs)}
        assert TASK.grade(item, outputs[0])["score"] >= half["score"] - 1e-9


def test_the_haystack_is_named(items: list[Question]) -> None:
    for item in items:
        name = item.group.split("/")[0]
        noise = ("niah_single_1", "niah_multikey_2", "niah_multikey_3")
        is_essay = name.startswith("niah") and name not in noise
        assert item.reference["haystack"] == ("SQuAD and Qasper" if is_essay else "")
        assert ("the" in str(item.prompt)) or not is_essay


def test_the_seed_decides(items: list[Question], setup: Setup, evaluation_data: Path) -> None:
    assert list(TASK.items(setup)) == items
    other = Setup(
        shots=0, evaluation_data=evaluation_data, model=setup.model, lengths=LENGTHS, seed=1
    )
    for mine, theirs in zip(items, TASK.items(other), strict=True):
        assert mine.id == theirs.id
        assert mine.prompt != theirs.prompt


def test_items_are_made_when_they_are_asked_for(evaluation_data: Path) -> None:
    model = WordModel(2_000_000)
    setup = Setup(
        shots=0, evaluation_data=evaluation_data, model=model, lengths=(1_000_000, 2_000_000)
    )
    first, second = itertools.islice(TASK.items(setup), 2)
    assert 999_900 < len(str(first.prompt).split()) + 128 <= 1_000_000
    assert first.prompt != second.prompt
    # Some counts find the size, then each item is counted once.
    assert model.counted < 12


def test_questions_that_need_two_passages(tmp_path: Path, evaluation_data: Path) -> None:
    rows = [
        {
            "question": f"Q{i}?",
            "answer": f"A{i}",
            "context": [[f"T{i}{j}", ["Text.", " More."]] for j in range(10)],
        }
        for i in range(30)
    ]
    (tmp_path / "hotpotqa.json").write_text(json.dumps(rows), encoding="utf-8")
    setup = Setup(
        shots=0,
        evaluation_data=evaluation_data,
        model=WordModel(),
        lengths=(512,),
        folder=tmp_path,
    )
    found = [item for item in TASK.items(setup) if item.group == "qa_2/512"]
    assert len({item.reference["outputs"][0] for item in found}) == 10
    for item in found:
        number = item.reference["outputs"][0][1:]
        assert all(f":\nT{number}{j}\nText. More.\n" in str(item.prompt) for j in range(10))
        assert 490 < len(str(item.prompt).split()) + 32 <= 512


def test_with_a_template_there_is_room_for_it(evaluation_data: Path) -> None:
    setup = Setup(
        shots=0, evaluation_data=evaluation_data, model=WordModel(), lengths=(700,), chat=True
    )
    for item in TASK.items(setup):
        (message,) = item.prompt
        assert isinstance(message, Message)
        assert message.role == "user"
        assert len(message.content.split()) + item.max_tokens <= 700 - 96


def test_a_length_that_is_too_small(evaluation_data: Path) -> None:
    setup = Setup(shots=0, evaluation_data=evaluation_data, model=WordModel(), lengths=(150,))
    with pytest.raises(RequestError, match="niah_single_1 at 150: the shortest text"):
        list(TASK.items(setup))
