"""InfiniteBench's kv_retrieval: the value of one key in a long JSON object of UUIDs."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from random import Random

from deepseek.eval.lengths import context_lengths, fitting_size, prompt_room
from deepseek.eval.ruler.words import random_uuid
from deepseek.eval.task import Grades, Question, Setup, Task, as_prompt

TEMPLATE = (
    "Extract the value corresponding to the specified key in the JSON object below.\n\n"
    'JSON data:\n{{{pairs}}}\n\nKey: "{key}"\nThe value associated with the specified key is: '
)
PER_CELL = 10
"""Items of one length; their keys stand at even distances in the object."""
MAX_TOKENS = 50
SEPARATORS = re.compile("""[\n:"'.,?!{}]""")


def items(setup: Setup) -> Iterator[Question]:
    """Objects of all lengths.

    Raises:
        RequestError: A length is too large for the model or too small for a pair.
    """
    for length in context_lengths(setup):
        room, size = prompt_room(setup, length, MAX_TOKENS), 0
        for index in range(PER_CELL):
            seed = f"{setup.seed}/kv/{length}/{index}"
            size = fitting_size(partial(_text, seed, index), setup, room, 1, size)
            prompt = _text(seed, index, size)
            _, value = _asked(_pairs(seed, size), index)
            yield Question(
                id=f"{length}/{index}",
                prompt=as_prompt(prompt, setup),
                reference=value,
                max_tokens=MAX_TOKENS,
                group=str(length),
            )


def grade(item: Question, answer: str) -> Grades:
    """Whether the value is one of the words of the answer."""
    return {"acc": float(item.reference in SEPARATORS.sub(" ", answer).split())}


def _text(seed: str, index: int, n_pairs: int) -> str:
    pairs = _pairs(seed, n_pairs)
    shown = ", ".join(f'"{name}": "{content}"' for name, content in pairs)
    return TEMPLATE.format(pairs=shown, key=_asked(pairs, index)[0])


def _pairs(seed: str, n_pairs: int) -> list[tuple[str, str]]:
    generator = Random(seed)
    return [(random_uuid(generator), random_uuid(generator)) for _ in range(n_pairs)]


def _asked(pairs: Sequence[tuple[str, str]], index: int) -> tuple[str, str]:
    """The key that an item asks for, with its value."""
    return pairs[len(pairs) * index // PER_CELL]


TASK = Task(
    name="infinitebench_kv",
    summary="the value of one key in a JSON object of random UUIDs, by length",
    protocol=(
        "kv_retrieval of InfiniteBench (arXiv:2402.13718): official prompt and scoring on objects"
        " made anew to fill each length, keys at even depths, 10 items for each length"
    ),
    metric="acc",
    items=items,
    grade=grade,
    by_group=True,
    licence="MIT (the prompt)",
)
