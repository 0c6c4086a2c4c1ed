"""MBPP's hand-checked half: reworded problems, repaired tests, from its authors' own file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek.core.errors import RequestError
from deepseek.eval.code import (
    CHAT_STOP,
    LIMITS_IN_WORDS,
    MAX_CHAT_TOKENS,
    ask_for_code,
    grade_answer,
)
from deepseek.eval.task import Question, Setup, Task
from deepseek.eval.tasks.mbpp import reference_of_doc

NAME = "sanitized-mbpp.json"
SOURCE = f"{NAME} of google-research/mbpp, or its folder"
MAX_BYTES = 16 << 20
"""The original has 255 kB."""


def items(setup: Setup) -> Iterator[Question]:
    """All problems of the file; the chat template is always used."""
    for doc in _read(setup.need_folder("mbpp_sanitized", SOURCE)):
        tests = doc["test_list"]
        yield Question(
            id=str(doc["task_id"]),
            prompt=ask_for_code(f'"""\n{doc["prompt"]}\n{tests[0]}\n"""'),
            reference=reference_of_doc(
                {**doc, "test_setup_code": "\n".join(doc["test_imports"])},
            ),
            max_tokens=MAX_CHAT_TOKENS,
            stop=CHAT_STOP,
        )


def _read(path: Path) -> list[dict[str, Any]]:
    """The checked rows of the file.

    Raises:
        RequestError: It cannot be read, or is something else.
    """
    file = path / NAME if path.is_dir() else path
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES >> 20} MB")
        rows = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(rows, list) or not all(map(_is_problem, rows)):
            raise ValueError("a list of problems with prompt, code and test_list is expected")
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{file} cannot be read: {error}", f"give --data: {SOURCE}") from None
    return rows


def _is_problem(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("task_id"), int)
        and all(isinstance(row.get(key), str) for key in ("prompt", "code"))
        and all(_are_texts(row.get(key)) for key in ("test_imports", "test_list"))
        and bool(row["test_list"])
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


TASK = Task(
    name="mbpp_sanitized",
    summary="MBPP's 427 hand-checked problems, reworded by its authors, in a conversation",
    protocol="evalplus's chat protocol as in `mbpp`, whatever --chat says, greedy, 768 tokens, on "
    "the authors' sanitized-mbpp.json (training and test problems; evalplus keeps 378 of them); "
    f"{LIMITS_IN_WORDS}",
    metric="pass@1",
    runs_code=True,
    items=items,
    grade=grade_answer,
    licence="CC BY 4.0",
)
