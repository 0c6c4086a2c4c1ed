"""MMLU as Hendrycks and lm-eval ask it."""

import itertools
from collections import Counter
from pathlib import Path

import pytest

from deepseek.core.llm import Message
from deepseek.eval.task import Choice, Setup
from deepseek.eval.tasks.mmlu import SUBJECTS, TASK

DESCRIPTION = (
    "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
)
FIRST = (
    "Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q.\n"
    "A. 0\nB. 4\nC. 2\nD. 6\nAnswer:"
)
EXAMPLE = (
    "Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field.\n"
    "A. 0\nB. 1\nC. 2\nD. 3\nAnswer: B\n\n"
)


@pytest.fixture(scope="module")
def questions(evaluation_data: Path) -> list[Choice]:
    return list(TASK.items(Setup(shots=5, evaluation_data=evaluation_data)))


def test_all_questions_stand_by_subject(questions: list[Choice]) -> None:
    assert len(questions) == 14_042 == len({item.id for item in questions})
    assert list(dict.fromkeys(item.group for item in questions)) == SUBJECTS
    assert len(SUBJECTS) == 57
    changes = sum(a.group != b.group for a, b in itertools.pairwise(questions))
    assert changes == 56


def test_gold_letters_are_those_of_the_published_test_set(questions: list[Choice]) -> None:
    assert Counter(item.gold for item in questions) == {0: 3_222, 1: 3_462, 2: 3_582, 3: 3_776}


def test_prompts(questions: list[Choice], evaluation_data: Path) -> None:
    bare = next(iter(TASK.items(Setup(shots=0, evaluation_data=evaluation_data))))
    assert bare == Choice(
        id="abstract_algebra/0",
        prompt=DESCRIPTION + FIRST,
        choices=(" A", " B", " C", " D"),
        gold=1,
        group="abstract_algebra",
    )
    prompt = questions[0].prompt
    assert isinstance(prompt, str)
    assert prompt.startswith(DESCRIPTION + EXAMPLE)
    assert prompt.endswith("Answer: A\n\n" + FIRST)
    assert prompt.count("\nAnswer: ") == 5


def test_a_subject_shares_its_beginning(questions: list[Choice]) -> None:
    beginnings = {}
    for item in questions:
        assert isinstance(item.prompt, str)
        beginnings.setdefault(item.group, set()).add(item.prompt.rpartition("\n\n")[0][:1_000])
    assert all(len(found) == 1 for found in beginnings.values())


def test_chat_asks_as_a_user_and_answers_begin_at_once(evaluation_data: Path) -> None:
    item = next(iter(TASK.items(Setup(shots=0, chat=True, evaluation_data=evaluation_data))))
    assert item.prompt == [Message("user", DESCRIPTION + FIRST)]
    assert item.choices == ("A", "B", "C", "D")
