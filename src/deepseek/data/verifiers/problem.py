"""A problem with a known answer, and where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question whose answers a verifier can judge."""

    question: str
    answer: str
    """The reference, as a verifier of that name understands it; empty: none is known."""
    verifier: str
    """A name in `deepseek.data.verifiers.registry`."""
    solution: str = ""
    """The reference worked out step by step, where the generator knows that."""
    generator: str = ""
    """Name and version."""
    family: str = ""
    level: int = 0
    """Difficulty as the generator counts it, from 0."""
    seed: int = 0
    index: int = 0
    """Place among the problems of this family, level and seed."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the verifier needs beside the answer, as plain JSON data: names, tests, choices."""

    @property
    def id(self) -> str:
        """The same problem, the same name."""
        return f"{self.family}/{self.level}/{self.seed}/{self.index}"
