"""HumanEval in a conversation: the prompt, and that right programs pass and wrong ones fail."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from deepseek.core.llm import Message
from deepseek.eval.code import grade_code
from deepseek.eval.data import read_requests
from deepseek.eval.task import Setup
from deepseek.eval.tasks.humaneval import DATA, TASK
from deepseek.eval.tasks.table import find_task

WRONG_VALUES = ("None", "True", "False", "0", "''", "[]")


@pytest.fixture(scope="module")
def setup(evaluation_data):
    return Setup(shots=0, evaluation_data=evaluation_data)


@pytest.fixture(scope="module")
def items(setup):
    return list(TASK.items(setup))


@pytest.fixture(scope="module")
def docs(setup):
    return read_requests(setup, DATA)


def test_prompt_is_evalplus_s(items):
    assert len(items) == 164
    assert find_task("humaneval") is TASK
    item = items[0]
    assert (item.id, item.max_tokens) == ("HumanEval/0", 768)
    assert item.stop[-1] == "\n```\n"
    assert item.prompt == [
        Message(
            "user",
            "Please provide a self-contained Python script that solves the following problem in "
            "a markdown code block:\n```\nfrom typing import List\n\n\n"
            "def has_close_elements(numbers: List[float], threshold: float) -> bool:\n"
            '    """ Check if in given list of numbers, are any two numbers closer to each other '
            "than\n    given threshold.\n"
            "    >>> has_close_elements([1.0, 2.0, 3.0], 0.5)\n    False\n"
            "    >>> has_close_elements([1.0, 2.8, 3.0, 4.0, 5.0, 2.0], 0.3)\n    True\n"
            '    """\n```\n',
        ),
        Message(
            "assistant",
            "Below is a Python script with a self-contained function that solves the problem and "
            "passes corresponding tests:\n```python\n",
        ),
    ]


def test_chat_option_changes_nothing(items, setup):
    assert list(TASK.items(replace(setup, chat=True))) == items
    assert "whatever --chat says" in TASK.protocol


def test_every_given_solution_passes_in_an_answer(items, docs):
    def grade(pair):
        item, doc = pair
        answer = f"{doc['prompt']}{doc['canonical_solution']}\n```\nThat is all."
        return item.id, TASK.grade(item, answer)["pass@1"]

    with ThreadPoolExecutor(2) as pool:
        grades = dict(pool.map(grade, zip(items, docs, strict=True)))
    assert [name for name, grade in grades.items() if not grade] == []


def test_no_stub_passes(items, docs):
    """The body is one wrong value after the other; every problem's tests notice all of them."""

    def grade(pair):
        item, doc = pair
        name = doc["entry_point"]
        body = f"def {name}(*given, answers=[{', '.join(WRONG_VALUES)}]):\n"
        body += "    answers.append(answers.pop(0))\n    return answers[-1]\n"
        return item.id, grade_code(item, body)["pass@1"]

    with ThreadPoolExecutor(2) as pool:
        grades = dict(pool.map(grade, zip(items, docs, strict=True)))
    assert [name for name, grade in grades.items() if grade] == []


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I cannot help with that.",
        "def has_close_elements(numbers, threshold):\n    return True",
        "def has_close_elements(numbers: List[float], threshold):\n    return False",
        "import os\nos._exit(0)",
        "def has_close_elements(numbers, threshold):\n    while True: pass",
    ],
)
def test_wrong_answers_fail(items, answer, monkeypatch):
    from deepseek.eval import code
    from deepseek.eval.sandbox import Limits

    monkeypatch.setattr(code, "LIMITS", Limits(seconds=1))
    assert TASK.grade(items[0], answer) == {"pass@1": 0.0}
