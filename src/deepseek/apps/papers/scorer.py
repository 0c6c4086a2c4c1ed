"""How likely a sentence states a contribution: a linear model in two steps.

The first step sees a sentence by itself, the second also how its neighbours and the rest of
the paper scored. Weights are in `contribution_weights.toml`, written by
`benchmarks/papers.py calibrate` from the training split of the NLPContributionGraph task
(SemEval-2021 task 11); the test split is only ever evaluated on.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from deepseek.apps.papers.features import Item, features

OFFSETS = (-3, -2, -1, 1, 2, 3)
OUTSIDE = -4.0  # score of what lies before the first or after the last sentence

Row = Mapping[str, float]


def contribution_scores(items: Sequence[Item], title: str = "") -> list[float]:
    """Probability that each item states a contribution of the paper, by the fitted weights."""
    weights = load_weights()
    rows = features(items, title)
    first = [dot(row, weights["first"]) for row in rows]
    both = [{**row, **near} for row, near in zip(rows, context(first), strict=True)]
    return [_sigmoid(dot(row, weights["second"])) for row in both]


def contribution_threshold() -> float:
    """The probability above which a sentence counts as one, chosen on the training split."""
    return load_weights()["decision"]["threshold"]


def context(scores: Sequence[float]) -> list[dict[str, float]]:
    """Features of each item from the first step's scores around it."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    rank = {i: place / max(len(scores), 1) for place, i in enumerate(order)}
    rows = []
    for i, score in enumerate(scores):
        near = [_sigmoid(scores[i + o] if 0 <= i + o < len(scores) else OUTSIDE) for o in OFFSETS]
        row = {f"near:{o}": value for o, value in zip(OFFSETS, near, strict=True)}
        row |= {
            "score": score / 3,
            "near:max": max(near),
            "near:mean": sum(near) / len(near),
            "rank": rank[i],
            "top3%": float(rank[i] < 0.03),
            "top8%": float(rank[i] < 0.08),
        }
        rows.append(row)
    return rows


def dot(row: Row, weights: Row) -> float:
    """Sum of the products of what both have."""
    return sum(value * weights.get(name, 0.0) for name, value in row.items())


@cache
def load_weights() -> dict[str, dict[str, float]]:
    """The fitted weights."""
    file = resources.files("deepseek.apps.papers").joinpath("contribution_weights.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, x))))
