"""Small programming problems: a function that does some steps after one another, with its tests.

A level is the number of steps beyond two. The reference is composed of the same steps, so tests
and expected values come from running it here; what models write runs in the sandbox only.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deepseek.data.verifiers.problem import Problem
from deepseek.data.verifiers.programs import ProgramVerifier

N_LEVELS = 5
N_TESTS = 6


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done to a value."""

    words: str
    code: str
    """An assignment to `x`, for the reference solution."""
    do: Callable[[Any], Any]


def _list_steps(rng: random.Random) -> list[Step]:
    k, m = rng.randint(2, 5), rng.randint(2, 4)
    return [
        Step("keep only the even numbers", "x = [v for v in x if v % 2 == 0]", _evens),
        Step(
            f"keep only the numbers greater than {k}",
            f"x = [v for v in x if v > {k}]",
            lambda x: [v for v in x if v > k],
        ),
        Step(
            f"multiply each number by {m}",
            f"x = [{m} * v for v in x]",
            lambda x: [m * v for v in x],
        ),
        Step(f"add {k} to each number", f"x = [v + {k} for v in x]", lambda x: [v + k for v in x]),
        Step(f"leave out the first {m} elements", f"x = x[{m}:]", lambda x: x[m:]),
        Step("reverse the order", "x = x[::-1]", lambda x: x[::-1]),
        Step("sort from the largest to the smallest", "x = sorted(x, reverse=True)", _descending),
        Step(
            "remove repetitions, keeping the first of each",
            "x = list(dict.fromkeys(x))",
            lambda x: list(dict.fromkeys(x)),
        ),
        Step(
            "replace each element by the sum of all elements up to and including it",
            "x = [sum(x[: i + 1]) for i in range(len(x))]",
            lambda x: [sum(x[: i + 1]) for i in range(len(x))],
        ),
    ]


def _text_steps(rng: random.Random) -> list[Step]:
    k, letter = rng.randint(2, 4), rng.choice("aeinrst")
    return [
        Step("make all letters lower case", "x = x.lower()", str.lower),
        Step("swap upper and lower case", "x = x.swapcase()", str.swapcase),
        Step("reverse the text", "x = x[::-1]", lambda x: x[::-1]),
        Step(
            f"remove every {letter!r}",
            f"x = x.replace({letter!r}, '')",
            lambda x: x.replace(letter, ""),
        ),
        Step(
            f"keep only the characters whose position, counted from 0, is divisible by {k}",
            f"x = x[::{k}]",
            lambda x: x[::k],
        ),
        Step(
            "put the words (separated by spaces) in reverse order, joined by single spaces",
            "x = ' '.join(reversed(x.split()))",
            lambda x: " ".join(reversed(x.split())),
        ),
        Step(f"repeat the text {k} times", f"x = x * {k}", lambda x: x * k),
        Step("double each character", "x = ''.join(c + c for c in x)", _doubled),
    ]


def _evens(x: list[int]) -> list[int]:
    return [v for v in x if v % 2 == 0]


def _descending(x: list[int]) -> list[int]:
    return sorted(x, reverse=True)


def _doubled(x: str) -> str:
    return "".join(c + c for c in x)


def _list_input(rng: random.Random) -> list[int]:
    return [rng.randint(-9, 20) for _ in range(rng.randint(3, 9))]


def _text_input(rng: random.Random) -> str:
    words = "Rain Stone mirror Tea garden lantern river Nine apples".split()
    return " ".join(rng.choice(words) for _ in range(rng.randint(1, 4)))


PROGRAMS: dict[str, tuple[str, str, Callable[[random.Random], list[Step]], Callable[..., Any]]] = {
    "lists": ("a list of integers", "list", _list_steps, _list_input),
    "texts": ("a text", "text", _text_steps, _text_input),
}


def program_problem(name: str, level: int, seed: int, index: int) -> Problem:
    """One problem; always the same for the same arguments."""
    what, short, make_steps, make_input = PROGRAMS[name]
    rng = random.Random(f"programs {name} {level} {seed} {index}")
    steps = rng.sample(make_steps(rng), level + 2)
    numbered = " ".join(f"({i}) {step.words};" for i, step in enumerate(steps, 1))
    question = (
        f"Write a Python function `transform(x)` that takes {what} and returns the {short} after "
        f"these steps, one after the other: {numbered[:-1]}."
    )
    inputs = [type(make_input(rng))(), *(make_input(rng) for _ in range(N_TESTS - 1))]
    code = "\n".join(["def transform(x):", *(f"    {s.code}" for s in steps), "    return x"])
    calls = [f"transform({value!r})" for value in inputs]
    wanted = [_done(steps, value) for value in inputs]
    tests = [f"assert {call} == {value!r}" for call, value in zip(calls, wanted, strict=True)]
    return Problem(
        question=question,
        answer=f"```python\n{code}\n```",
        verifier=ProgramVerifier.name,
        generator="programs 1",
        family=f"programs/{name}",
        level=level,
        seed=seed,
        index=index,
        details={"names": ["transform"], "tests": "\n".join(tests), "calls": calls},
    )


def _done(steps: Sequence[Step], value: Any) -> Any:
    for step in steps:
        value = step.do(value)
    return value
