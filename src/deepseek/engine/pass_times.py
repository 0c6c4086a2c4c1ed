"""How long a pass of the model takes with so many rows, as measured and kept current."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

ROWS = (1, 2, 4, 8, 16, 32)
"""Numbers of rows that are measured; between them time is a line."""
LEARNING = 0.1
"""Weight of a new observation: the context grows, and other programs come and go."""
MOST_SURPRISE = 2.0
"""A pass that took this many times as long as expected, or more, tells of something else."""
QUICK = 0.02
"""Seconds of a pass below which the better of two counts."""


class PassTimes:
    """Seconds of passes by their rows."""

    def __init__(self, seconds: Sequence[float] = ()) -> None:
        """Begin with what was measured, for each of `ROWS`; none: nothing was."""
        self._seconds = list(seconds)

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return bool(self._seconds)

    def measure(self, run: Callable[[int], float]) -> None:
        """Measure all.

        Args:
            run: Runs a pass of so many rows; returns its seconds.
        """
        run(ROWS[0])  # what has to be fetched first
        self._seconds = []
        for n_rows in ROWS:
            seconds = run(n_rows)
            self._seconds.append(min(seconds, run(n_rows)) if seconds < QUICK else seconds)

    def note(self, n_rows: int, seconds: float) -> None:
        """Take in what a pass took."""
        expected = self.at(n_rows)
        if not 1 / MOST_SURPRISE < seconds / expected < MOST_SURPRISE:
            return
        factor = (seconds / expected) ** LEARNING
        nearest = min(range(len(ROWS)), key=lambda i: abs(ROWS[i] - n_rows))
        # All of them become slower with a longer context; the one that was seen is known best.
        self._seconds = [s * factor for s in self._seconds]
        self._seconds[nearest] *= factor

    def at(self, n_rows: int) -> float:
        """Seconds expected of a pass."""
        right = min(max(bisect_left(ROWS, n_rows), 1), len(ROWS) - 1)
        left = right - 1
        slope = (self._seconds[right] - self._seconds[left]) / (ROWS[right] - ROWS[left])
        return self._seconds[left] + max(slope, 0.0) * (n_rows - ROWS[left])

    @property
    def of_many(self) -> float:
        """Seconds that a row more takes in a pass of many."""
        return max((self._seconds[-1] - self._seconds[-2]) / (ROWS[-1] - ROWS[-2]), 0.0)
