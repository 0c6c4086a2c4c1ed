"""HumanEval as text to be continued, as lm-eval and the original do it."""

from collections.abc import Iterator
from dataclasses import replace

from deepseek.eval.code import LIMITS_IN_WORDS, grade_code
from deepseek.eval.data import read_requests
from deepseek.eval.task import Grades, Question, Setup, Task
from deepseek.eval.tasks import humaneval

STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
MAX_TOKENS = 1024


def items(setup: Setup) -> Iterator[Question]:
    """All problems; the chat template is never used."""
    docs = read_requests(setup, humaneval.DATA)
    for item, doc in zip(humaneval.items(setup), docs, strict=True):
        reference = item.reference | {"prompt": doc["prompt"]}
        yield replace(
            item, prompt=doc["prompt"], reference=reference, stop=STOP, max_tokens=MAX_TOKENS
        )


def grade(item: Question, answer: str) -> Grades:
    """Whether the prompt with its continuation passes the tests."""
    return grade_code(item, item.reference["prompt"] + answer)


TASK = Task(
    name="humaneval_completion",
    summary="Python functions from their docstrings, continued",
    protocol="lm-eval 0.4.13 `humaneval`: the prompt as it is, whatever --chat says, greedy, "
    f"1,024 tokens, five stop strings; the original tests; {LIMITS_IN_WORDS} (lm-eval: 3 s)",
    metric="pass@1",
    runs_code=True,
    items=items,
    grade=grade,
    licence="MIT",
)
