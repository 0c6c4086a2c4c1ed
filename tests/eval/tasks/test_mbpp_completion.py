"""MBPP after solved examples."""

import pytest

from deepseek.eval.data import read_requests
from deepseek.eval.task import Setup
from deepseek.eval.tasks.mbpp import DATA
from deepseek.eval.tasks.mbpp_completion import TASK
from deepseek.eval.tasks.table import find_task

FIRST_EXAMPLE = (
    "You are an expert Python programmer, and here is your task: Write a function to find the "
    "similar elements from the given two tuple lists. Your code should pass these tests:\n\n"
    "assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)\n"
    "assert similar_elements((1, 2, 3, 4),(5, 4, 3, 7)) == (3, 4)\n"
    "assert similar_elements((11, 12, 14, 13),(17, 15, 14, 13)) == (13, 14)\n[BEGIN]\n"
    "def similar_elements(test_tup1, test_tup2):\r\n"
    "  res = tuple(set(test_tup1) & set(test_tup2))\r\n  return (res) \n[DONE]\n\n"
)
QUESTION = (
    "You are an expert Python programmer, and here is your task: Write a python function to "
    "remove first and last occurrence of a given character from the string. Your code should "
    'pass these tests:\n\nassert remove_Occ("hello","l") == "heo"\n'
    'assert remove_Occ("abcda","a") == "bcd"\nassert remove_Occ("PHP","P") == "H"\n[BEGIN]\n'
)


@pytest.mark.parametrize("shots", [0, 1, 3])
def test_prompt_is_lm_eval_s(evaluation_data, shots):
    items = list(TASK.items(Setup(shots=shots, evaluation_data=evaluation_data)))
    assert len(items) == 500
    assert find_task("mbpp_completion") is TASK
    prompt = items[0].prompt
    assert prompt.endswith(QUESTION)
    assert prompt.startswith(FIRST_EXAMPLE if shots else QUESTION)
    assert prompt.count("[DONE]\n\n") == shots
    assert items[0].stop == ("[DONE]",)


def test_text_up_to_done_is_the_program(evaluation_data):
    setup = Setup(shots=3, evaluation_data=evaluation_data)
    items = list(TASK.items(setup))
    for number, doc in enumerate(read_requests(setup, DATA)[:5]):
        assert TASK.grade(items[number], doc["code"] + "\n") == {"pass@1": 1.0}
        assert TASK.grade(items[number], "Here it is:\n" + doc["code"]) == {"pass@1": 0.0}
