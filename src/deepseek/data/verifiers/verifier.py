"""What a verifier is, and those that compare a final answer with a reference."""

import re
from fractions import Fraction
from typing import ClassVar, Protocol, runtime_checkable

from deepseek.data.verifiers.final import (
    final_answer,
    last_number,
    normalised,
    only_number,
    stated_answer,
)
from deepseek.data.verifiers.problem import Problem

LETTERS = "ABCDEFGHIJ"
_LETTERS = (r"\(([A-J])\)", r"\b([A-J])[).:]", r"\b([A-J])\b(?![ ][a-z])")
"""Marked ones first; the bare one is no pronoun or article."""


@runtime_checkable
class Verifier(Protocol):
    """Says what an answer means, and whether it is right."""

    name: ClassVar[str]
    form: ClassVar[str]
    """How the answer is asked for: the end of `Answer: …`."""

    def key(self, problem: Problem, text: str) -> str | None:
        """The answer in a text in one form: equal keys say the same. None: there is none."""
        ...

    def is_right(self, problem: Problem, text: str) -> bool:
        """Whether a text answers the problem rightly.

        Raises:
            RequestError: It could not be judged, which says nothing about the text.
        """
        ...


class NumberVerifier:
    """Exact numbers: `0.75`, `3/4` and `75/100` are the same, `0.7501` is another."""

    name = "number"
    form = "the number"

    def key(self, problem: Problem, text: str) -> str | None:
        """The number as a fraction in lowest terms."""
        value = _number_of(text)
        return None if value is None else str(value)

    def is_right(self, problem: Problem, text: str) -> bool:
        """Whether both numbers are equal."""
        wanted = last_number(problem.answer)
        return wanted is not None and _number_of(text) == wanted


class ChoiceVerifier:
    """Multiple choice: the letter."""

    name = "choice"
    form = "the letter"

    def key(self, problem: Problem, text: str) -> str | None:
        """The letter that is stated, or else the only or first one on the last line."""
        line = stated_answer(text) or final_answer(text) or ""
        found = (re.search(form, line) for form in _LETTERS)
        return next((match.group(1) for match in found if match), None)

    def is_right(self, problem: Problem, text: str) -> bool:
        """Whether it is the reference's letter."""
        return self.key(problem, text) == problem.answer.strip().upper()


class TextVerifier:
    """Short texts, compared without case, marks around them, and double spaces."""

    name = "text"
    form = "the answer"

    def key(self, problem: Problem, text: str) -> str | None:
        """The final answer; a number in lowest terms."""
        answer = final_answer(text)
        return None if answer is None else text_key(answer)

    def is_right(self, problem: Problem, text: str) -> bool:
        """Whether it says what the reference says."""
        return self.key(problem, text) == text_key(problem.answer)


def text_key(answer: str) -> str | None:
    """A short answer in one form."""
    value = only_number(answer)
    return (normalised(answer) or None) if value is None else str(value)


def _number_of(text: str) -> Fraction | None:
    """The number that is stated, or else the last one."""
    stated = stated_answer(text)
    value = None if stated is None else _first_number(stated)
    return last_number(text) if value is None else value


def _first_number(stated: str) -> Fraction | None:
    """`answer: 12 apples (of 30)` means 12, `answer: 3 + 4 = 7` means 7."""
    value = only_number(stated)
    if value is not None or "=" in stated:
        return last_number(stated) if value is None else value
    words = stated.split()
    numbers = (only_number(word) for word in words)
    return next((number for number in numbers if number is not None), last_number(stated))
