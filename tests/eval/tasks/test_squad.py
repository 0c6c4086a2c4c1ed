"""SQuAD."""

from pathlib import Path

import pytest

from deepseek.eval.data import read_rows
from deepseek.eval.task import Setup
from deepseek.eval.tasks.squad import TASK


def test_all_questions_are_asked_as_the_data_asks_them(evaluation_data: Path) -> None:
    setup = Setup(shots=5, evaluation_data=evaluation_data)
    items = list(TASK.items(setup))
    assert len(items) == 1_000 == len({item.id for item in items})
    for item, row in zip(items, read_rows(setup, "squad/bpb_5shot"), strict=True):
        assert item.prompt == row["request"]["context"]
    assert items[0].reference == ["23 years", "23", "23"]


def test_without_examples_only_the_description_stands_before(evaluation_data: Path) -> None:
    item = next(iter(TASK.items(Setup(shots=0, evaluation_data=evaluation_data))))
    assert isinstance(item.prompt, str)
    assert item.prompt.startswith(
        "The following are reading comprehension questions, where the answer to each question is "
        "a segment of text from the corresponding background text.\n\n"
        "Title: Harvard_University\nBackground: Older than The Game by 23 years, the Harvard-Yale"
    )
    assert item.prompt.endswith(
        'Question: Harvard - Yale Regatta predates "The Game" by how many years?\nAnswer:'
    )


def test_grades(evaluation_data: Path) -> None:
    item = next(iter(TASK.items(Setup(shots=0, evaluation_data=evaluation_data))))
    assert TASK.grade(item, " 23") == {"exact_match": 1, "f1": 1}
    assert TASK.grade(item, " about 23 years") == {"exact_match": 0, "f1": pytest.approx(0.8)}
