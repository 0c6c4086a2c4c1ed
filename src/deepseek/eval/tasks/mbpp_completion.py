"""MBPP with three solved examples, as lm-eval does it."""

from collections.abc import Iterator
from typing import Any

from deepseek.eval.code import LIMITS_IN_WORDS, grade_code
from deepseek.eval.data import read_requests
from deepseek.eval.task import Question, Setup, Task
from deepseek.eval.tasks.mbpp import DATA, reference_of_doc

MAX_TOKENS = 256

# Tasks 2 to 4 of the data set, written as in lm-eval.
EXAMPLES: tuple[dict[str, Any], ...] = (
    {
        "text": "Write a function to find the similar elements from the given two tuple lists.",
        "code": "def similar_elements(test_tup1, test_tup2):\r\n"
        "  res = tuple(set(test_tup1) & set(test_tup2))\r\n"
        "  return (res) ",
        "test_list": (
            "assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)",
            "assert similar_elements((1, 2, 3, 4),(5, 4, 3, 7)) == (3, 4)",
            "assert similar_elements((11, 12, 14, 13),(17, 15, 14, 13)) == (13, 14)",
        ),
    },
    {
        "text": "Write a python function to identify non-prime numbers.",
        "code": "import math\r\ndef is_not_prime(n):\r\n    result = False\r\n"
        "    for i in range(2,int(math.sqrt(n)) + 1):\r\n        if n % i == 0:\r\n"
        "            result = True\r\n    return result",
        "test_list": (
            "assert is_not_prime(2) == False",
            "assert is_not_prime(10) == True",
            "assert is_not_prime(35) == True",
        ),
    },
    {
        "text": "Write a function to find the largest integers from a given list of numbers "
        "using heap queue algorithm.",
        "code": "import heapq as hq\r\ndef heap_queue_largest(nums,n):\r\n"
        "  largest_nums = hq.nlargest(n, nums)\r\n  return largest_nums",
        "test_list": (
            "assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],3)==[85, 75, 65] ",
            "assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],2)==[85, 75] ",
            "assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],5)"
            "==[85, 75, 65, 58, 35]",
        ),
    },
)


def items(setup: Setup) -> Iterator[Question]:
    """The test split; the chat template is never used."""
    examples = [f"{_ask(one)}{one['code']}\n[DONE]\n\n" for one in EXAMPLES[: setup.shots]]
    for doc in read_requests(setup, DATA):
        yield Question(
            id=str(doc["task_id"]),
            prompt="".join(examples) + _ask(doc),
            reference=reference_of_doc(doc),
            max_tokens=MAX_TOKENS,
            stop=("[DONE]",),
        )


def _ask(doc: dict[str, Any]) -> str:
    tests = "\n".join(doc["test_list"][:3])
    return (
        f"You are an expert Python programmer, and here is your task: {doc['text']} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


TASK = Task(
    name="mbpp_completion",
    summary="short Python functions from a sentence and three tests, after solved examples",
    protocol="lm-eval 0.4.13 `mbpp`: three fixed solved examples, whatever --chat says, greedy, "
    "256 tokens up to [DONE]; the test split with its original tests, and unlike lm-eval with "
    f"the statements that one problem's tests need before; {LIMITS_IN_WORDS} (lm-eval: 3 s)",
    metric="pass@1",
    runs_code=True,
    items=items,
    grade=grade_code,
    shots=3,
    max_shots=3,
    licence="CC BY 4.0",
)
