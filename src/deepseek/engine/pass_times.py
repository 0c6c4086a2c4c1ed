"""How long a pass of the model takes with so many rows, learnt from those that ran."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

ROWS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of rows whose times are kept; between them time is a line."""
SHAPE = (1.0, 1.2, 1.6, 2.4, 3.8, 6.5, 12.0)
"""What they take in the time of one row, until it is seen: each weight is read once for all rows,
and attention and sampling are done for each."""
LEARNING = 0.1
"""Weight of an observation, when there were many: contexts grow, and machines are shared."""
SURPRISE = 2.0
"""A pass that took so many times what was expected, or more, counts as if it took just that."""


class PassTimes:
    """Seconds of passes by their rows."""

    def __init__(self, seconds: Sequence[float] = ()) -> None:
        """Begin with the times of `ROWS`; none: with the first pass that is seen."""
        self._shape = tuple(seconds) or SHAPE
        self._seconds = list(seconds)
        self._n_seen = [0] * len(ROWS)

    @property
    def is_known(self) -> bool:
        """Whether a pass was seen."""
        return bool(self._seconds)

    def note(self, n_rows: int, seconds: float) -> None:
        """Take in what a pass took."""
        nearest = min(range(len(ROWS)), key=lambda i: abs(ROWS[i] - n_rows))
        if not self._seconds:
            self._seconds = [seconds * factor / SHAPE[nearest] for factor in SHAPE]
        factor = min(max(seconds / self.at(n_rows), 1 / SURPRISE), SURPRISE)
        self._n_seen[nearest] += 1
        weight = max(1 / self._n_seen[nearest], 2 * LEARNING)
        # A longer context makes all of them slower; the one that was seen is known best.
        for i, n_seen in enumerate(self._n_seen):
            if n_seen:
                self._seconds[i] *= factor ** (weight if i == nearest else LEARNING)
        self._assume()

    def _assume(self) -> None:
        """Let times that were not seen follow those that were, in the proportions assumed."""
        seen = [i for i, n in enumerate(self._n_seen) if n]
        others = [i for i, n in enumerate(self._n_seen) if not n]
        ratios = [math.log(self._seconds[i] / self._shape[i]) for i in seen]
        for i, ratio in zip(others, np.interp(others, seen, ratios), strict=True):
            self._seconds[i] = self._shape[i] * math.exp(ratio)

    def at(self, n_rows: int) -> float:
        """Seconds expected of a pass."""
        return float(self.beginning_at(n_rows, 1)[0])

    def beginning_at(self, n_rows: int, n: int) -> Float[np.ndarray, " N"]:
        """Seconds expected of passes with so many rows, one more, …: `n` of them."""
        rows = np.arange(n_rows, n_rows + n)
        known = np.interp(rows, ROWS, np.maximum.accumulate(self._seconds))
        return known + self.of_many * np.maximum(rows - ROWS[-1], 0)

    @property
    def of_many(self) -> float:
        """Seconds that a row more takes in a pass of many."""
        return max((self._seconds[-1] - self._seconds[-2]) / (ROWS[-1] - ROWS[-2]), 0.0)
