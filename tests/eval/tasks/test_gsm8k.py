"""GSM8K with lm-eval's worked examples."""

from pathlib import Path

import pytest

from deepseek.eval.task import Question, Setup
from deepseek.eval.tasks.gsm8k import TASK

EXAMPLE = (
    "Q: There are 15 trees in the grove. Grove workers will plant trees in the grove today. After "
    "they are done, there will be 21 trees. How many trees did the grove workers plant today?\n"
    "A: There are 15 trees originally. Then there were 21 trees after some more were planted. So "
    "there must have been 21 - 15 = 6. The answer is 6.\n\n"
)
SECOND = (
    "Q: A robe takes 2 bolts of blue fiber and half that much white fiber.  How many bolts in "
    "total does it take?\nA:"
)


def questions(shots: int, data: Path) -> list[Question]:
    return list(TASK.items(Setup(shots=shots, evaluation_data=data)))


def test_all_problems(evaluation_data: Path) -> None:
    items = questions(1, evaluation_data)
    assert len(items) == 1_319 == len({item.id for item in items})
    assert items[1].prompt == EXAMPLE + SECOND
    assert items[1].reference == "3"
    assert all(item.reference.replace(",", "").lstrip("-").isdecimal() for item in items)


@pytest.mark.parametrize("shots", [0, 5, 8])
def test_as_many_examples_as_asked_for(evaluation_data: Path, shots: int) -> None:
    prompt = questions(shots, evaluation_data)[1].prompt
    assert isinstance(prompt, str)
    assert prompt.count("The answer is") == shots
    assert prompt.count("So the answer is") == 0
    assert prompt.endswith(SECOND)


def test_grades(evaluation_data: Path) -> None:
    item = questions(0, evaluation_data)[1]
    stated, only, wrong = " So 2 + 1 = 3. The answer is 3.", " 2 + 1 = 3", " The answer is 4."
    assert TASK.grade(item, stated) == {"strict_match": 1, "flexible_match": 1}
    assert TASK.grade(item, only) == {"strict_match": 0, "flexible_match": 1}
    assert TASK.grade(item, wrong) == {"strict_match": 0, "flexible_match": 0}
