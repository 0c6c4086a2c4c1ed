"""What each of RULER's tasks builds: a text of some number of pieces, and what is to be found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal


@dataclass(frozen=True, slots=True)
class Filled:
    """A prompt, the beginning of the answer included, and the expected parts of its rest."""

    text: str
    outputs: Sequence[str]


Build = Callable[[Random, int], Filled]
"""Builds from a generator and a number of pieces; the same from the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one task is made at one length."""

    build: Build
    least: int
    """Pieces that the text needs at least."""
    max_tokens: int
    """Tokens of the answer."""
    match: Literal["all", "part"] = "all"
    """Whether the score is the share of the outputs that is found, or that one is."""
