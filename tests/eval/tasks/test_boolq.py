"""BoolQ."""

from collections import Counter
from pathlib import Path

from deepseek.eval.data import read_arrow
from deepseek.eval.task import Setup
from deepseek.eval.tasks.boolq import TASK


def test_all_questions_and_their_answers(evaluation_data: Path) -> None:
    setup = Setup(shots=0, evaluation_data=evaluation_data)
    items = list(TASK.items(setup))
    assert len(items) == 3_270 == len({item.id for item in items})
    assert Counter(item.gold for item in items) == {1: 2_033, 0: 1_237}
    assert {item.choices for item in items} == {(" no", " yes")}
    # A second copy of the set, without the titles.
    for item, row in zip(items, read_arrow(setup, "boolq/none", "validation"), strict=True):
        assert item.gold == int(row["answer"])
        assert isinstance(item.prompt, str)
        assert item.prompt.endswith(f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:")


def test_prompt_begins_with_the_title(evaluation_data: Path) -> None:
    item = next(iter(TASK.items(Setup(shots=0, evaluation_data=evaluation_data))))
    assert isinstance(item.prompt, str)
    assert item.prompt.startswith("Ethanol fuel -- All biomass goes through at least some of")
