"""Passkey retrieval: a number hidden at several depths of repeated sentences."""

import re
from collections.abc import Iterator
from functools import partial
from random import Random

from deepseek.eval.lengths import context_lengths, fitting_size, prompt_room
from deepseek.eval.task import Grades, Question, Setup, Task, as_prompt

DESCRIPTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them."
    " I will quiz you about the important information there."
)
GARBAGE = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
)
QUESTION = "What is the pass key? The pass key is"
DEPTHS = (0, 25, 50, 75, 100)
"""Percent of the garbage that stands before the key."""
PER_CELL = 10
"""Items of one length and depth."""
MAX_TOKENS = 10


def items(setup: Setup) -> Iterator[Question]:
    """Keys at all lengths and depths.

    Raises:
        RequestError: A length is too large for the model or too small for the question.
    """
    for length in context_lengths(setup):
        room, size = prompt_room(setup, length, MAX_TOKENS), 0
        for depth in DEPTHS:
            for index in range(PER_CELL):
                generator = Random(f"{setup.seed}/passkey/{length}/{depth}/{index}")
                key = str(generator.randint(1, 50_000))
                text = partial(_text, key, depth)
                size = fitting_size(text, setup, room, 1, size)
                yield Question(
                    id=f"{length}/{depth}/{index}",
                    prompt=as_prompt(text(size), setup),
                    reference=key,
                    max_tokens=MAX_TOKENS,
                    group=f"{length}/{depth}",
                )


def grade(item: Question, answer: str) -> Grades:
    """Whether the first number of the answer is the key."""
    found = re.search(r"\d+", answer)
    return {"acc": float(found is not None and found.group().lstrip("0") == item.reference)}


def _text(key: str, depth: int, n_sentences: int) -> str:
    before = n_sentences * depth // 100
    lines = (
        DESCRIPTION,
        " ".join([GARBAGE] * before),
        f"The pass key is {key}. Remember it. {key} is the pass key.",
        " ".join([GARBAGE] * (n_sentences - before)),
        QUESTION,
    )
    return "\n".join(lines)


TASK = Task(
    name="passkey",
    summary="a number hidden in repeated sentences, by length of the text and depth of the number",
    protocol=(
        "passkey retrieval (arXiv:2305.16300): the authors' prompt and keys, whole sentences of"
        f" filling, depths {', '.join(map(str, DEPTHS))} %, 10 items for each depth and length;"
        " right if the first number of the answer is the key"
    ),
    metric="acc",
    items=items,
    grade=grade,
    by_group=True,
    licence="Apache-2.0 (the prompt)",
)
