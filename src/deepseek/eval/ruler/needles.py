"""Needles in a haystack: RULER's eight tasks of retrieval, with its templates and complexities."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from deepseek.eval.ruler.filled import Filled, Recipe
from deepseek.eval.ruler.words import random_key

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {kind} for {key} is: {value}."
TEMPLATE = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. I"
    " will quiz you about the {kind} afterwards.\n{context}\nWhat are all the special magic {kind}"
    " for {query} mentioned in the provided text? The special magic {kind} for {query} mentioned in"
    " the provided text are"
)
ONE = TEMPLATE.replace("Some", "A").replace("are all", "is").replace("are", "is")
"""Asks for one value, by the replacements that RULER makes."""
DEPTHS = tuple(round(100 * i / 39) for i in range(40))
"""Where needles may stand among the sentences of an essay, in percent."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Needles:
    """What is hidden, in what, and what is asked."""

    haystack: Literal["noise", "essay", "needle"]
    keys: str = "words"
    values: str = "numbers"
    n_keys: int = 1
    n_values: int = 1
    n_queries: int = 1


NEEDLES: Mapping[str, Needles] = {
    "niah_single_1": Needles(haystack="noise"),
    "niah_single_2": Needles(haystack="essay"),
    "niah_single_3": Needles(haystack="essay", values="uuids"),
    "niah_multikey_1": Needles(haystack="essay", n_keys=4),
    "niah_multikey_2": Needles(haystack="needle"),
    "niah_multikey_3": Needles(haystack="needle", keys="uuids", values="uuids"),
    "niah_multivalue": Needles(haystack="essay", n_values=4),
    "niah_multiquery": Needles(haystack="essay", n_keys=4, n_queries=4),
}
"""By RULER's names."""

Essay = Callable[[int], Sequence[str]]
"""The first words of a running text, from the beginning again where it ends."""


def needle_recipe(name: str, essay: Essay) -> Recipe:
    """One of the eight tasks.

    Args:
        name: Its name in `NEEDLES`.
        essay: The haystack of the tasks that take one.
    """
    return recipe_of(NEEDLES[name], essay)


def recipe_of(needles: Needles, essay: Essay) -> Recipe:
    """A task of retrieval in any complexity.

    Args:
        needles: What is hidden, in what, and what is asked.
        essay: The haystack, if it is one.
    """

    def build(generator: Random, n_pieces: int) -> Filled:
        return _build(needles, essay, generator, n_pieces)

    return Recipe(build=build, least=needles.n_keys * needles.n_values, max_tokens=128)


def _build(needles: Needles, essay: Essay, generator: Random, n_pieces: int) -> Filled:
    hidden: dict[str, list[str]] = {}
    while len(hidden) < needles.n_keys:
        key = random_key(generator, needles.keys)
        hidden[key] = [random_key(generator, needles.values) for _ in range(needles.n_values)]
    asked = generator.sample(list(hidden), needles.n_queries)
    lines = [
        NEEDLE.format(kind=needles.values, key=key, value=value)
        for key, values in hidden.items()
        for value in values
    ]
    generator.shuffle(lines)
    if needles.haystack == "essay":
        context = _hide_in_essay(essay(n_pieces), lines, generator)
    else:
        hay = [NOISE] * n_pieces
        if needles.haystack == "needle":
            hay = [_distractor(needles, hidden, generator) for _ in range(n_pieces)]
        for place in sorted(generator.sample(range(n_pieces), len(lines)), reverse=True):
            hay.insert(place, lines.pop())
        context = "\n".join(hay)
    outputs = [value for key in asked for value in hidden[key]]
    single = len(outputs) == 1
    text = (ONE if single else TEMPLATE).format(
        kind=needles.values[:-1] if single else needles.values,
        context=context,
        query=", ".join(asked[:-1]) + ", and " + asked[-1] if len(asked) > 1 else asked[0],
    )
    return Filled(text, outputs)


def _distractor(needles: Needles, hidden: Mapping[str, object], generator: Random) -> str:
    """A needle with another key than those that are asked for."""
    key = random_key(generator, needles.keys)
    while key in hidden:
        key = random_key(generator, needles.keys)
    value = random_key(generator, needles.values)
    return NEEDLE.format(kind=needles.values, key=key, value=value)


def _hide_in_essay(words: Sequence[str], lines: Sequence[str], generator: Random) -> str:
    """The text with the needles between sentences, at different depths."""
    sentences = SENTENCE_END.split(" ".join(words).strip())
    depths = sorted(generator.sample(DEPTHS, len(lines)))
    places = [0, *(int(len(sentences) * depth / 100) for depth in depths), len(sentences)]
    parts: list[str] = []
    for i, line in enumerate(lines):
        parts += [" ".join(sentences[places[i] : places[i + 1]]), line]
    return " ".join([*parts, " ".join(sentences[places[-2] :])])
