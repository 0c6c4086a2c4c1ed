"""HumanEval asked as evalplus asks chat models."""

from collections.abc import Iterator

from deepseek.eval.code import (
    CHAT_STOP,
    LIMITS_IN_WORDS,
    MAX_CHAT_TOKENS,
    ask_for_code,
    grade_answer,
    reference_of,
)
from deepseek.eval.data import read_requests
from deepseek.eval.task import Question, Setup, Task

DATA = "codex_humaneval/gold_bpb_0shot"


def items(setup: Setup) -> Iterator[Question]:
    """All problems; the chat template is always used."""
    for doc in read_requests(setup, DATA):
        yield Question(
            id=doc["task_id"],
            prompt=ask_for_code(doc["prompt"]),
            # Some tests call helper functions of the prompt: theirs are the prompt's own.
            reference=reference_of(
                [doc["entry_point"]],
                f"{doc['test']}\ncheck({doc['entry_point']})\n",
                preamble=doc["prompt"] + "    pass\n",
            ),
            max_tokens=MAX_CHAT_TOKENS,
            stop=CHAT_STOP,
        )


TASK = Task(
    name="humaneval",
    summary="Python functions from their docstrings, in a conversation",
    protocol="evalplus's chat protocol (instruction, problem in a code block, answer begun "
    "inside a code block) whatever --chat says, greedy, 768 tokens; code found as evalplus "
    f"does; the original tests, not evalplus's; {LIMITS_IN_WORDS}",
    metric="pass@1",
    runs_code=True,
    items=items,
    grade=grade_answer,
    licence="MIT",
)
