"""MBPP asked as evalplus asks chat models, judged by MBPP's own tests."""

import ast
from collections.abc import Iterator
from typing import Any

from deepseek.core.errors import RequestError
from deepseek.eval.code import (
    CHAT_STOP,
    LIMITS_IN_WORDS,
    MAX_CHAT_TOKENS,
    ask_for_code,
    grade_answer,
    parse_code,
    reference_of,
)
from deepseek.eval.data import read_requests
from deepseek.eval.task import Question, Setup, Task

DATA = "codex_mbpp/gold_bpb_0shot"


def items(setup: Setup) -> Iterator[Question]:
    """The test split; the chat template is always used."""
    for doc in read_requests(setup, DATA):
        yield Question(
            id=str(doc["task_id"]),
            prompt=ask_for_code(f'"""\n{doc["text"]}\n{doc["test_list"][0]}\n"""'),
            reference=reference_of_doc(doc),
            max_tokens=MAX_CHAT_TOKENS,
            stop=CHAT_STOP,
        )


def reference_of_doc(doc: dict[str, Any]) -> dict[str, Any]:
    """All tests of a problem, and what they take from the program.

    That is what the given solution defines: one problem asks for a function named `sum`, and
    the tests of another make trees of the program's own class.
    """
    tests = "\n".join([doc["test_setup_code"], *doc["test_list"]])
    solution, asserts = parse_code(doc["code"])[0], parse_code(tests)[0]
    if solution is None or asserts is None:
        raise RequestError(f"problem {doc['task_id']} of MBPP is not Python", "check the data")
    functions = (ast.FunctionDef, ast.ClassDef)
    defined = {node.name for node in solution.body if isinstance(node, functions)}
    used = {node.id for node in ast.walk(asserts) if isinstance(node, ast.Name)}
    return reference_of(sorted(defined & used), tests)


TASK = Task(
    name="mbpp",
    summary="short Python functions from a sentence and a test, in a conversation",
    protocol="evalplus's chat protocol (instruction, sentence and first test as a docstring in "
    "a code block, answer begun inside a code block) whatever --chat says, greedy, 768 tokens; "
    "code found as evalplus does; all 500 problems of the test split with their original tests, "
    f"where evalplus has 378 with tests of its own; {LIMITS_IN_WORDS}",
    metric="pass@1",
    runs_code=True,
    items=items,
    grade=grade_answer,
    licence="CC BY 4.0",
)
