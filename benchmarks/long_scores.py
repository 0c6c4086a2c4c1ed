"""Scores of the same questions under several attentions, and how much one keeps of another.

Contexts are resampled, not questions: those about one context share its fate. Kept is the ratio of
the means over the same questions; the mean over tasks counts each task alike.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from deepseek.eval.record import Record
from deepseek.eval.statistics import replicates
from report import Row

DENSE = "dense"
JUDGED = "sparse 2,048"
"""The product's budget."""
ANSWERS = ("written", "chosen")
"""How questions are answered, in the order of preference."""
ABLE = 0.2
"""Least share of right dense answers, above chance, with which a ratio of shares says anything."""
KEPT, WORST, GAP = (0.98, 0.995), (0.9, 0.97), (3.0, 0.5)
"""What must be, and what would be more: mean over tasks, each task, points behind the oracle."""
_SEED = 20_261_128
Draws = Float64[np.ndarray, "b 2"]


class Pair:
    """Means of two settings over the same contexts."""

    def __init__(self, first: Sequence[list[Record]], second: Sequence[list[Record]], name: str):
        """Take the records of each context under both.

        Args:
            first: Of each context.
            second: Of each context, in the same order.
            name: What is averaged: `written` or `chosen` over questions, `nats` over tokens.
        """
        weight = "tokens" if name == "nats" else None
        sums = [
            [_sums(part, name, weight) for part in pair] for pair in zip(first, second, strict=True)
        ]
        self._sums, self._weights = (
            np.array([[s[i] for s in row] for row in sums]) for i in (0, 1)
        )
        self.n_contexts, self.n_asked = len(first), sum(map(len, first))
        self.a, self.b = (float(x) for x in self._sums.sum(0) / self._weights.sum(0))

    def draws(self, generator: np.random.Generator) -> Draws | None:
        """Means of resampled contexts, in an order of their own; None: one context says nothing."""
        if self.n_contexts < 2:
            return None
        groups = np.zeros(self.n_contexts, dtype=np.int64)
        drawn = replicates(self._sums / self._weights, self._weights, groups)
        return np.asarray(generator.permutation(drawn))


class Scores:
    """Records by setting, task and context."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], dict[int, list[Record]]] = defaultdict(dict)

    def add(self, setting: str, task: str, context: int, record: Record) -> None:
        """Take one in."""
        self._found[setting, task].setdefault(context, []).append(record)

    @property
    def settings(self) -> list[str]:
        """All there are."""
        return list(dict.fromkeys(setting for setting, _ in self._found))

    @property
    def tasks(self) -> list[str]:
        """All there are."""
        return list(dict.fromkeys(task for _, task in self._found))

    def line(self, setting: str, task: str, context: int) -> str:
        """For people who wait: one context, then all so far."""
        now = self._found[setting, task][context]
        parts = []
        for records in (now, self._all(setting, task)):
            names = [name for name in ANSWERS if name in records[0].grades]
            shares = [f"{mean_of(records, name):4.0%} {name}" for name in names]
            nats, n_tokens = _sums(records, "nats", "tokens")
            parts.append(f"{', '.join(shares)}, {nats / n_tokens:.3f} nats a token")
        seconds = sum(record.seconds for record in now)
        return f"{task:<22} {context:>2} {setting:<13} {' | '.join(parts)} | {seconds:.0f} s"

    def answer(self, task: str) -> tuple[str, bool]:
        """How a task's answers are taken, and whether dense attention can do it that way."""
        records = self._all(DENSE, task)
        names = [name for name in ANSWERS if records and name in records[0].grades]
        for name in names:
            chance = mean_of(records, "chance") if name == "chosen" else 0.0
            if mean_of(records, name) >= chance + ABLE:
                return name, True
        return (names or ANSWERS)[0], False

    def pair(self, a: str, b: str, task: str, name: str) -> Pair | None:
        """Two settings on the contexts that both have read; None if there are none."""
        first, second = self._found.get((a, task), {}), self._found.get((b, task), {})
        common = [context for context in first if context in second]
        if not common:
            return None
        return Pair([first[c] for c in common], [second[c] for c in common], name)

    def _all(self, setting: str, task: str) -> list[Record]:
        return [record for part in self._found[setting, task].values() for record in part]


def results(scores: Scores, about: str) -> list[Row]:
    """Everything that is judged.

    Args:
        scores: Of all settings, dense attention among them.
        about: Model and length, for the rows' names.
    """
    rows: list[Row] = []
    for setting in scores.settings:
        if setting.startswith(("sparse", "oracle")):
            rows += _kept_rows(scores, setting, about)
    for setting in scores.settings:
        if setting.startswith("oracle"):
            rows += _gap_rows(scores, setting, about)
    return rows


def _kept_rows(scores: Scores, setting: str, about: str) -> list[Row]:
    """Of one setting: the mean over tasks, then right answers, then likelihoods of each task."""
    generator = np.random.default_rng(_SEED)
    right_rows, likely_rows, ratios, drawn = [], [], [], []
    for task in scores.tasks:
        answer, is_able = scores.answer(task)
        right = scores.pair(DENSE, setting, task, answer)
        likely = scores.pair(DENSE, setting, task, "nats")
        if right is None or likely is None:
            continue
        likely_rows.append(_likelihood_row(likely, f"{setting}, {task}", about, generator))
        row = _ratio_row(right, f"{setting}, {task}: {answer}", about, generator)
        if is_able:
            ratios.append(right.b / right.a)
            drawn.append(_ratios(right.draws(generator)))
            row.must, row.moonshot = WORST if setting == JUDGED else (None, None)
        else:
            row.name += "; dense near chance, not counted"
        right_rows.append(row)
    if not ratios:
        return right_rows + likely_rows
    low, high = _mean_range(drawn)
    must, moonshot = KEPT if setting == JUDGED else (None, None)
    macro = Row(
        f"{setting}, mean over {len(ratios)} tasks: right answers kept ({about})",
        float(np.mean(ratios)),
        "of dense",
        rounds=sum(row.rounds for row in right_rows),
        low=low,
        high=high,
        must=must,
        moonshot=moonshot,
    )
    kept = [row.ratio for row in likely_rows if row.ratio]
    likely_macro = Row(
        f"{setting}, mean over {len(kept)} tasks: likelihood of right answers kept ({about})",
        math.exp(float(np.mean(np.log(kept)))),
        "of dense",
        rounds=sum(row.rounds for row in likely_rows),
    )
    return [macro, likely_macro, *right_rows, *likely_rows]


def _ratio_row(pair: Pair, name: str, about: str, generator: np.random.Generator) -> Row:
    low, high = _range(_ratios(pair.draws(generator))) if pair.a else (None, None)
    return Row(
        f"{name} ({about}, {pair.n_contexts} contexts)",
        100 * pair.b,
        "% right",
        peer=DENSE,
        peer_value=100 * pair.a,
        rounds=pair.n_asked,
        low=low,
        high=high,
        judge="ratio",
    )


def _likelihood_row(pair: Pair, name: str, about: str, generator: np.random.Generator) -> Row:
    """Perplexities of the right answers: the ratio is dense over sparse, so that more is better."""
    drawn = pair.draws(generator)
    low, high = _range(None if drawn is None else np.exp(drawn[:, 0] - drawn[:, 1]))
    return Row(
        f"{name}: perplexity of right answers, kept ({about}, {pair.n_contexts} contexts)",
        math.exp(pair.b),
        "a token",
        peer=DENSE,
        peer_value=math.exp(pair.a),
        ratio=math.exp(pair.a - pair.b),
        rounds=pair.n_asked,
        low=low,
        high=high,
        judge="ratio",
    )


def _gap_rows(scores: Scores, oracle: str, about: str) -> list[Row]:
    """Points by which the oracle is ahead of the router, on what both were asked."""
    generator = np.random.default_rng(_SEED)
    rows: list[Row] = []
    counted, drawn = [], []
    for task in scores.tasks:
        answer, is_able = scores.answer(task)
        router = oracle.replace("oracle", "sparse")
        pair = scores.pair(router, oracle, task, answer)
        likely = scores.pair(router, oracle, task, "nats")
        if pair is None or likely is None:
            continue
        part = pair.draws(generator)
        points = None if part is None else 100 * (part[:, 1] - part[:, 0])
        row = Row(
            f"{oracle} before the router, {task}: {answer} ({about}, {pair.n_contexts} contexts; "
            f"answers' perplexity {math.exp(likely.b):.4g} and {math.exp(likely.a):.4g})",
            100 * (pair.b - pair.a),
            "points",
            rounds=pair.n_asked,
            better="lower",
        )
        row.low, row.high = _range(points)
        rows.append(row)
        if is_able:
            counted.append(row.value)
            drawn.append(points)
    if not counted:
        return rows
    low, high = _mean_range(drawn)
    must, moonshot = GAP if oracle.removeprefix("oracle") in JUDGED else (None, None)
    mean = Row(
        f"{oracle} before the router, mean over {len(counted)} tasks ({about})",
        float(np.mean(counted)),
        "points",
        rounds=sum(row.rounds for row in rows),
        low=low,
        high=high,
        must=must,
        moonshot=moonshot,
        better="lower",
    )
    return [mean, *rows]


def _ratios(drawn: Draws | None) -> Float64[np.ndarray, " b"] | None:
    """Of the second mean to the first, which may be zero in a draw."""
    return None if drawn is None else drawn[:, 1] / np.maximum(drawn[:, 0], 1e-9)


def _mean_range(
    drawn: Sequence[Float64[np.ndarray, " b"] | None],
) -> tuple[float, float] | tuple[None, None]:
    known = [part for part in drawn if part is not None]
    return _range(np.mean(known, axis=0) if len(known) == len(drawn) else None)


def _range(
    drawn: Float64[np.ndarray, " b"] | None,
) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval."""
    if drawn is None:
        return None, None
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def _sums(records: Sequence[Record], name: str, weight: str | None) -> tuple[float, float]:
    total = sum(record.grades[name] for record in records)
    return total, sum(record.grades[weight] if weight else 1.0 for record in records)


def mean_of(records: Sequence[Record], name: str) -> float:
    """Of one grade."""
    return sum(record.grades[name] for record in records) / len(records)
