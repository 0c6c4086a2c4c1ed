"""Rules with thresholds on counted features: what Gopher and FineWeb have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.data.quality.document import Document
from deepseek.data.quality.operator import KEEP, Decision, Operator, Scores


@dataclass(frozen=True, slots=True)
class Bound:
    """A score must not lie on the wrong side of a setting; a setting of 0 or less is no bound."""

    score: str
    setting: str
    side: str
    """`above` or `below`: where it may not lie."""

    def fails(self, values: np.ndarray, limit: float) -> np.ndarray:
        """Whether each value does lie there; NaN does not."""
        if limit <= 0:
            return np.zeros(len(values), dtype=bool)
        with np.errstate(invalid="ignore"):
            wrong: np.ndarray = values > limit if self.side == "above" else values < limit
        return wrong


class BoundedOperator(Operator):
    """Scores against bounds: the first one that fails, in their order, is the reason."""

    bounds: tuple[Bound, ...] = ()

    def decide(self, batch: Sequence[Document], scores: Scores) -> list[Decision]:
        """Drop what breaks a bound."""
        decisions = [KEEP] * len(batch)
        for bound in reversed(self.bounds):
            limit = float(getattr(self.settings, bound.setting))
            values = scores[bound.score]
            for row in np.flatnonzero(bound.fails(values, limit)):
                decisions[row] = Decision(
                    f"{bound.score.replace('_', ' ')} {values[row]:.4g} is {bound.side} {limit:g}"
                )
        return decisions


def stacked(rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Scores of single documents as arrays."""
    if not rows:
        return {}
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


def per_document(function: Callable[[str], Mapping[str, float]], batch: Sequence[Document]) -> Any:
    """Scores that are counted text by text."""
    return stacked([function(document.text) for document in batch])
