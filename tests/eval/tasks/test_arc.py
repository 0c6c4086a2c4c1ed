"""ARC, both parts."""

from collections import Counter
from pathlib import Path

from deepseek.eval.data import read_arrow, read_requests
from deepseek.eval.task import Choice, Setup
from deepseek.eval.tasks.arc import TASK


def test_both_parts_are_groups_of_equal_weight(evaluation_data: Path) -> None:
    items = list(TASK.items(Setup(shots=0, evaluation_data=evaluation_data)))
    assert Counter(item.group for item in items) == {"ARC-Easy": 2_376, "ARC-Challenge": 1_172}
    assert len({item.id for item in items}) == len(items)
    assert TASK.by_group
    assert all(0 <= item.gold < len(item.choices) for item in items)
    assert {len(item.choices) for item in items} == {3, 4, 5}


def test_the_requests_hold_what_the_data_set_holds(evaluation_data: Path) -> None:
    # The test split comes as requests only; for the validation split there are both.
    setup = Setup(shots=0, evaluation_data=evaluation_data)
    for part, name in (("arc_easy", "ARC-Easy"), ("arc_challenge", "ARC-Challenge")):
        requests = read_requests(setup, f"{part}/rc_0shot")
        rows = read_arrow(setup, f"ai2_arc/{name}", "validation")
        for request, row in zip(requests, rows, strict=True):
            assert request["query"] == f"Question: {row['question']}\nAnswer:"
            assert request["choices"] == row["choices"]["text"]
            assert request["gold"] == row["choices"]["label"].index(row["answerKey"])


def test_examples_come_from_the_validation_split(evaluation_data: Path) -> None:
    item = next(iter(TASK.items(Setup(shots=1, evaluation_data=evaluation_data))))
    assert isinstance(item, Choice)
    assert item.prompt == (
        "Question: Which technology was developed most recently?\nAnswer: cellular telephone\n\n"
        "Question: Which statement best explains why photosynthesis is the foundation of most "
        "food webs?\nAnswer:"
    )
