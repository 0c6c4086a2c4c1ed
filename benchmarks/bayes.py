"""The baseline for contribution sentences: naive Bayes over words, pairs, section and place."""

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import ncg

Bags = list[list[str]]


class Bayes:
    """Multinomial naive Bayes for two classes, with add-a-little smoothing."""

    def __init__(self, bags: Bags, truth: NDArray[np.float32], smoothing: float = 0.5) -> None:
        counts = (Counter[str](), Counter[str]())
        for bag, label in zip(bags, truth, strict=True):
            counts[int(label)].update(bag)
        vocabulary = [
            t for t in counts[0].keys() | counts[1].keys() if counts[0][t] + counts[1][t] > 1
        ]
        totals = [sum(c.values()) + smoothing * len(vocabulary) for c in counts]
        self.prior = math.log(truth.mean() / (1 - truth.mean()))
        self.ratio = {
            t: math.log((counts[1][t] + smoothing) / totals[1])
            - math.log((counts[0][t] + smoothing) / totals[0])
            for t in vocabulary
        }

    def scores(self, bags: Bags) -> NDArray[np.float64]:
        """Log-odds that each is a contribution sentence."""
        return np.array([self.prior + sum(self.ratio.get(t, 0.0) for t in bag) for bag in bags])


def naive_bayes(train: Path, test: Path) -> dict[str, float]:
    """F1, precision and recall on `test`; the threshold by cross-validation over tasks."""
    papers = list(ncg.papers(train))
    labelled = [_bags(paper) for paper in papers]
    folds = ncg.fold_by_task([paper.task for paper in papers])
    held_out = []
    for fold in set(folds):
        model = _fit([p for p, f in zip(labelled, folds, strict=True) if f != fold])
        held = [p for p, f in zip(labelled, folds, strict=True) if f == fold]
        held_out += [(model.scores(bags), gold) for bags, gold in held]
    scores = np.concatenate([s for s, _ in held_out])
    truth = np.concatenate([g for _, g in held_out])
    cut = max(
        np.quantile(scores, np.linspace(0.7, 0.98, 57)), key=lambda t: f1(truth, scores > t)["f1"]
    )
    model = _fit(labelled)
    answers = [_bags(paper) for paper in ncg.papers(test)]
    guess = np.concatenate([model.scores(bags) > cut for bags, _ in answers])
    result = f1(np.concatenate([gold for _, gold in answers]), guess)
    return result | {"cross_validated_f1": f1(truth, scores > cut)["f1"]}


def _fit(papers: list[tuple[Bags, NDArray[np.float32]]]) -> Bayes:
    return Bayes([b for bags, _ in papers for b in bags], np.concatenate([g for _, g in papers]))


def f1(truth: NDArray[np.float32], guess: NDArray[np.bool_]) -> dict[str, float]:
    """F1, precision and recall in per cent."""
    hits = float((truth * guess).sum())
    precision, recall = hits / max(int(guess.sum()), 1), hits / max(float(truth.sum()), 1.0)
    return {
        "f1": 200 * precision * recall / max(precision + recall, 1e-9),
        "precision": 100 * precision,
        "recall": 100 * recall,
    }


def _bags(paper: ncg.Paper) -> tuple[Bags, NDArray[np.float32]]:
    """Tokens of each line; the section's heading words and the place count as words too."""
    bags = []
    lines = ncg.items(paper)
    for i, item in enumerate(lines):
        words = item.text.lower().split()
        pairs = [f"{a}_{b}" for a, b in itertools.pairwise(words)]
        place = [f"@{item.role}", f"#{20 * i // len(lines)}"]
        bags.append([*words, *pairs, *place, *(f"h:{w}" for w in item.heading.lower().split())])
    gold = np.array([i + 1 in paper.gold for i in range(len(paper.lines))], np.float32)
    return bags, gold
