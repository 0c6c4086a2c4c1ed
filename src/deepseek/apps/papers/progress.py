"""How far an analysis is, and when its time is over."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

READING = {"en": "Reading the paper", "zh": "通读论文"}
MANY_TOKENS = 2_048
"""A shorter prompt is read without a word."""


@dataclass(frozen=True, slots=True)
class AnalysisProgress:
    """What is being done, and how much of it is done of all."""

    step: str
    done: int
    total: int
    unit: Literal["calls", "tokens"] = "calls"
    """Calls of the model, or tokens while it reads the paper as a whole."""


class OutOfTime(Exception):
    """The time limit was reached while the paper was read."""


@dataclass(slots=True)
class Clock:
    """Counts the model's calls for progress, and the seconds for the time limit."""

    language: str
    on_progress: Callable[[AnalysisProgress], None] | None
    time_limit: float | None
    total: int = 1
    step: str = ""
    done: int = 0
    start: float = field(default_factory=time.perf_counter)
    _to_read: int = 0

    @property
    def seconds(self) -> float:
        """Since the analysis began."""
        return time.perf_counter() - self.start

    def begin(self, step: str) -> None:
        """Another step begins."""
        self.step = step
        self._has_read()
        self._show(AnalysisProgress(step, self.done, self.total))

    def tick(self, calls: int = 1) -> None:
        """So many calls of the model more are done."""
        self.done = min(self.done + calls, self.total)
        self._has_read()
        self._show(AnalysisProgress(self.step, self.done, self.total))

    def read(self, done: int, total: int) -> None:
        """Tokens of a prompt are read and to read.

        Raises:
            OutOfTime: The time limit is reached.
        """
        if self.is_over():
            raise OutOfTime
        if total >= MANY_TOKENS:
            self._to_read = total
            self._show(AnalysisProgress(READING[self.language], done, total, "tokens"))

    def is_over(self) -> bool:
        """Whether the time limit is reached."""
        return self.time_limit is not None and self.seconds > self.time_limit

    def _has_read(self) -> None:
        """A model tells what it reads before it does, never that all is read."""
        total, self._to_read = self._to_read, 0
        if total:
            self._show(AnalysisProgress(READING[self.language], total, total, "tokens"))

    def _show(self, progress: AnalysisProgress) -> None:
        if self.on_progress:
            self.on_progress(progress)
