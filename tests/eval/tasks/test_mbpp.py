"""MBPP in a conversation: the prompt, and that right programs pass and wrong ones fail."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from deepseek.core.llm import Message
from deepseek.eval.code import grade_code
from deepseek.eval.data import read_requests
from deepseek.eval.task import Setup
from deepseek.eval.tasks.mbpp import DATA, TASK
from deepseek.eval.tasks.table import find_task


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
    assert len(items) == 500
    assert find_task("mbpp") is TASK
    assert items[0].id == "11"
    assert items[0].prompt == [
        Message(
            "user",
            "Please provide a self-contained Python script that solves the following problem in "
            'a markdown code block:\n```\n"""\nWrite a python function to remove first and last '
            "occurrence of a given character from the string.\n"
            'assert remove_Occ("hello","l") == "heo"\n"""\n```\n',
        ),
        Message(
            "assistant",
            "Below is a Python script with a self-contained function that solves the problem and "
            "passes corresponding tests:\n```python\n",
        ),
    ]


def test_tests_take_from_the_program_what_they_name(items):
    names = {item.id: item.reference["names"] for item in items}
    assert names["11"] == ["remove_Occ"]
    assert names["126"] == ["sum"]
    assert names["367"] == ["Node", "is_tree_balanced"]
    assert all(names.values())


def test_every_given_solution_passes(items, docs):
    def grade(pair):
        item, doc = pair
        return item.id, grade_code(item, doc["code"])["pass@1"]

    with ThreadPoolExecutor(2) as pool:
        grades = dict(pool.map(grade, zip(items, docs, strict=True)))
    assert [name for name, grade in grades.items() if not grade] == []


def test_given_solutions_survive_the_extraction(items, docs):
    for number in (*range(0, 500, 25), 115, 356):  # among them the one with classes
        answer = f"{docs[number]['code']}\n```"
        assert TASK.grade(items[number], answer) == {"pass@1": 1.0}, items[number].id


def test_every_test_counts(items, docs):
    """A program that knows the first test's answer only."""
    code = (
        "def remove_Occ(s, ch):\n    return 'heo' if s == 'hello' else 'bcd' if s == 'abcda' else s"
    )
    assert TASK.grade(items[0], code) == {"pass@1": 0.0}
    assert TASK.grade(items[0], code.replace("else s", "else 'H'")) == {"pass@1": 1.0}
    assert TASK.grade(items[115], "def sum(a, b):\n    return 6") == {"pass@1": 0.0}
    assert TASK.grade(items[115], "") == {"pass@1": 0.0}
