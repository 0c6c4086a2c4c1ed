"""HumanEval as text to be continued."""

import pytest

from deepseek.eval.data import read_requests
from deepseek.eval.task import Setup
from deepseek.eval.tasks.humaneval import DATA
from deepseek.eval.tasks.humaneval_completion import TASK
from deepseek.eval.tasks.table import find_task


@pytest.fixture(scope="module")
def setup(evaluation_data):
    return Setup(shots=0, chat=True, evaluation_data=evaluation_data)


def test_prompt_is_the_problem_as_it_is(setup):
    items = list(TASK.items(setup))
    assert len(items) == 164
    assert find_task("humaneval_completion") is TASK
    assert items[2].prompt == (
        "\n\ndef truncate_number(number: float) -> float:\n"
        '    """ Given a positive floating point number, it can be decomposed into\n'
        "    and integer part (largest integer smaller than given number) and decimals\n"
        "    (leftover part always smaller than 1).\n\n"
        "    Return the decimal part of the number.\n"
        '    >>> truncate_number(3.5)\n    0.5\n    """\n'
    )
    assert items[2].stop == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


def test_continuations_are_judged_with_their_prompt(setup):
    items = list(TASK.items(setup))
    docs = read_requests(setup, DATA)
    for number in (0, 2, 10, 32, 38, 50, 53):  # among them the tests that use the prompt's helpers
        assert TASK.grade(items[number], docs[number]["canonical_solution"]) == {"pass@1": 1.0}
        assert TASK.grade(items[number], "    return None\n") == {"pass@1": 0.0}
    assert TASK.grade(items[0], "return True") == {"pass@1": 0.0}
