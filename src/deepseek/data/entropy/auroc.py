"""How well a signal tells wrong answers from right ones: AUROC with its bootstrap interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

RESAMPLES = 2_000
_SEED = 20_240_101


@dataclass(frozen=True, slots=True)
class Auroc:
    """Probability that a wrong answer has more of the signal than a right one; ties are half."""

    value: float
    low: float
    high: float
    """Of the 95 % percentile interval, over questions."""
    n_wrong: int
    n_right: int


def auroc(risk: Sequence[float], is_wrong: Sequence[bool]) -> Auroc | None:
    """Of one signal; None: there are no wrong answers, or no right ones."""
    return compare_aurocs({"": risk}, is_wrong).get("")


def compare_aurocs(risks: dict[str, Sequence[float]], is_wrong: Sequence[bool]) -> dict[str, Auroc]:
    """Of several signals on the same questions, which are resampled together."""
    wrong = np.asarray(is_wrong, dtype=bool)
    n_wrong = int(wrong.sum())
    if not 0 < n_wrong < wrong.size:
        return {}
    found = {}
    for name, risk in risks.items():
        values = np.asarray(risk, dtype=np.float64)
        drawn = replicates(values, wrong)
        low, high = np.quantile(drawn, (0.025, 0.975))
        found[name] = Auroc(
            rank_auroc(values, wrong), float(low), float(high), n_wrong, wrong.size - n_wrong
        )
    return found


def replicates(
    risk: Float64[np.ndarray, " n"], is_wrong: Bool[np.ndarray, " n"]
) -> Float64[np.ndarray, " b"]:
    """AUROCs of resampled questions; the same draws for every signal, so that they can be paired.

    Wrong and right answers are drawn by themselves, as many as there are.
    """
    generator = np.random.default_rng(_SEED)
    wrong, right = np.flatnonzero(is_wrong), np.flatnonzero(~is_wrong)
    values = np.empty(RESAMPLES)
    wins = (risk[wrong][:, None] > risk[right]) + 0.5 * (risk[wrong][:, None] == risk[right])
    for i in range(RESAMPLES):
        rows = np.bincount(generator.integers(0, wrong.size, wrong.size), minlength=wrong.size)
        columns = np.bincount(generator.integers(0, right.size, right.size), minlength=right.size)
        values[i] = rows @ wins @ columns / (wrong.size * right.size)
    return values


def rank_auroc(risk: Float64[np.ndarray, " n"], is_wrong: Bool[np.ndarray, " n"]) -> float:
    """Mann and Whitney's statistic, as a share of all pairs."""
    wrong, right = risk[is_wrong], np.sort(risk[~is_wrong])
    below = np.searchsorted(right, wrong, side="left")
    up_to = np.searchsorted(right, wrong, side="right")
    return float((below + up_to).sum() / (2 * wrong.size * right.size))
