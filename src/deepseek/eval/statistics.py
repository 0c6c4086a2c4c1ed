"""Means with 95 % confidence intervals, and what the difference of two runs is worth.

Proportions get Wilson's interval; all other means the percentile bootstrap over items, within
groups where the headline is a mean over groups. An item that could not be asked counts as 0,
except in a weighted mean: those are likelihoods, where 0 would be a perfect answer, so there it
has no weight and `n` is smaller.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from deepseek.eval.record import Estimate, Record

Z = 1.959963984540054  # 97.5 % point of the normal distribution
RESAMPLES = 2_000
SMALL_GROUP = 5
"""Groups of fewer items are resampled together: alone they show next to nothing of the spread."""
FEW_ROWS = 64
WEIGHT = "/weight"
_SEED = 20_240_101
_CHUNK = 1 << 21  # numbers held at once while resampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """One metric of some items: value, weight and group of each."""

    values: Float64[np.ndarray, " n"]
    weights: Float64[np.ndarray, " n"]
    groups: Int[np.ndarray, " n"]

    @property
    def is_proportion(self) -> bool:
        """Whether all items count the same and each is plainly right or wrong."""
        return bool(np.isin(self.values, (0.0, 1.0)).all() and (self.weights == 1.0).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much higher a mean is in the second run, over the items that both runs have."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, from the bootstrap; at least 1 / (resamples + 1)."""
    p_exact: float | None
    """McNemar's exact test, where each item is right or wrong and all count the same."""
    n: int


def summarise(
    records: Sequence[Record], names: Sequence[str] | None = None, *, by_group: bool = False
) -> dict[str, Estimate]:
    """The mean of each metric with its interval.

    Args:
        records: The items of one task.
        names: The metrics; default: all that any item has.
        by_group: Take the mean over groups instead of over items.
    """
    chosen = metric_names(records) if names is None else names
    found = {name: measure(records, name) for name in chosen}
    return {name: estimate(m, by_group=by_group) for name, m in found.items() if m.values.size}


def summarise_groups(records: Sequence[Record], name: str) -> dict[str, Estimate]:
    """One metric of each group, in the order in which the groups appear."""
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        parts[record.group].append(record)
    known = {key for record in records if not record.error for key in record.grades}
    found = {group: measure(part, name, known) for group, part in parts.items()}
    return {group: estimate(m) for group, m in found.items() if m.values.size}


def metric_names(records: Iterable[Record]) -> list[str]:
    """The metrics that any item has, in order of appearance, without their weights."""
    names = dict.fromkeys(name for record in records for name in record.grades)
    return [name for name in names if not name.endswith(WEIGHT)]


def measure(
    records: Sequence[Record], name: str, known: Collection[str] | None = None
) -> Measurements:
    """Collect one metric; an error counts as 0 wherever its group has that metric.

    Args:
        records: The items.
        name: The metric.
        known: What the whole task measures, with weights, if these are not all of its items.
    """
    graded: Mapping[str, set[str]] = defaultdict(set)
    for record in records:
        if not record.error:
            graded[record.group].update(record.grades)
    everything = {name}.union(*graded.values()) if known is None else {name, *known}
    weighted = name + WEIGHT in everything
    kept = [
        record
        for record in records
        if (
            not weighted and name in (graded[record.group] or everything)
            if record.error
            else name in record.grades
        )
    ]
    return collect(kept, name)


def collect(records: Sequence[Record], name: str) -> Measurements:
    """One metric of all these records; 0 for an error."""
    answered = [{} if record.error else record.grades for record in records]
    numbers = {group: i for i, group in enumerate(dict.fromkeys(r.group for r in records))}
    return Measurements(
        values=np.array([grades.get(name, 0.0) for grades in answered], dtype=np.float64),
        weights=np.array([grades.get(name + WEIGHT, 1.0) for grades in answered], dtype=np.float64),
        groups=np.array([numbers[record.group] for record in records], dtype=np.int64),
    )


def estimate(measured: Measurements, *, by_group: bool = False) -> Estimate:
    """The mean of at least one item, with its interval."""
    values, n = measured.values, measured.values.size
    groups = measured.groups if by_group else np.zeros(n, dtype=np.int64)
    value = float(_means(values[:, None], measured.weights[:, None], groups)[0])
    constant = bool((values == values[0]).all())
    if measured.is_proportion and (groups.max() == 0 or constant):
        low, high = wilson(int(values.sum()), n)
    elif n == 1:
        # One item says nothing of the spread: the whole range of a share, else only itself.
        low, high = (0.0, 1.0) if 0 <= value <= 1 else (value, value)
    else:
        means = replicates(values[:, None], measured.weights[:, None], groups)[:, 0]
        low, high = (float(bound) for bound in np.quantile(means, (0.025, 0.975)))
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=n)


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion."""
    share = right / n
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_bootstrap(a: Measurements, b: Measurements, *, by_group: bool = False) -> Difference:
    """Mean of `b` minus mean of `a`, whose items are the same and in the same order."""
    values = np.stack((a.values, b.values), axis=1)
    weights = np.stack((a.weights, b.weights), axis=1)
    n = len(values)
    groups = a.groups if by_group else np.zeros(n, dtype=np.int64)
    means = _means(values, weights, groups)
    drawn = replicates(values, weights, groups)
    differences = drawn[:, 1] - drawn[:, 0]
    # Sums of the same numbers in another order differ in the last bits: that is a tie.
    tie = 1e-12 * max(1.0, float(np.abs(values).max()))
    below, above = (differences <= tie).sum(), (differences >= -tie).sum()
    p = min(1.0, 2 * (1 + int(min(below, above))) / (RESAMPLES + 1))
    low, high = (float(bound) for bound in np.quantile(differences, (0.025, 0.975)))
    exact = None
    if a.is_proportion and b.is_proportion:
        exact = mcnemar(int((a.values > b.values).sum()), int((b.values > a.values).sum()))
    value = float(means[1] - means[0])
    return Difference(
        value=value, low=min(low, value), high=max(high, value), p=p, p_exact=exact, n=n
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p of seeing items flip so unevenly if either way were as likely."""
    n, k = only_a + only_b, min(only_a, only_b)
    term = total = 1
    for i in range(k):
        term = term * (n - i) // (i + 1)
        total += term
    both_tails: float = 2 * total / 2**n
    return min(1.0, both_tails)


def replicates(
    values: Float64[np.ndarray, "n k"],
    weights: Float64[np.ndarray, "n k"],
    groups: Int[np.ndarray, " n"],
) -> Float64[np.ndarray, "b k"]:
    """Means of resampled items: `k` columns share the draw, each group keeps its size.

    A group of m items is drawn m - 1 times, which makes the variance of its mean unbiased
    (Rao and Wu 1988); with few items a group the usual m would be too sure of itself.
    """
    generator = np.random.default_rng(_SEED)
    sizes = np.bincount(groups)
    n_groups = len(sizes)
    result = np.zeros((RESAMPLES, values.shape[1]))
    small = sizes[groups] < SMALL_GROUP if n_groups > 1 else np.zeros(len(groups), dtype=bool)
    if small.any():
        # Collapsed strata: every small group still counts the same, whatever is drawn of it.
        share = len(np.unique(groups[small])) / n_groups
        evened = weights / _totals(weights, groups)[groups]
        result += share * _resampled_means(values[small], evened[small], generator)
    for group in np.unique(groups[~small]):
        inside = groups == group
        result += _resampled_means(values[inside], weights[inside], generator) / n_groups
    return result


def _resampled_means(
    values: Float64[np.ndarray, "n k"],
    weights: Float64[np.ndarray, "n k"],
    generator: np.random.Generator,
) -> Float64[np.ndarray, "b k"]:
    n, k = values.shape
    draws = max(1, n - 1)
    rows = np.concatenate((values * weights, weights), axis=1)
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    if len(kinds) <= FEW_ROWS:  # e.g. right or wrong: how often each kind is drawn is enough
        sums = generator.multinomial(draws, counts / n, size=RESAMPLES) @ kinds
    else:
        step = max(1, _CHUNK // (draws * 2 * k))
        parts = [
            rows[generator.integers(0, n, (min(step, RESAMPLES - start), draws))].sum(axis=1)
            for start in range(0, RESAMPLES, step)
        ]
        sums = np.concatenate(parts)
    means: Float64[np.ndarray, "b k"] = sums[:, :k] / np.maximum(sums[:, k:], 1e-300)
    return means


def _means(
    values: Float64[np.ndarray, "n k"],
    weights: Float64[np.ndarray, "n k"],
    groups: Int[np.ndarray, " n"],
) -> Float64[np.ndarray, " k"]:
    """Mean over the groups of their weighted means."""
    sums, totals = _totals(values * weights, groups), _totals(weights, groups)
    means: Float64[np.ndarray, " k"] = (sums / np.maximum(totals, 1e-300)).mean(axis=0)
    return means


def _totals(
    rows: Float64[np.ndarray, "n k"], groups: Int[np.ndarray, " n"]
) -> Float64[np.ndarray, "g k"]:
    return np.stack([np.bincount(groups, column) for column in rows.T], axis=1)
