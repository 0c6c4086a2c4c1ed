"""Fits and evaluates the contribution-sentence scorer, and the naive Bayes it is compared with."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import ncg
from deepseek.apps.papers.features import features
from deepseek.apps.papers.scorer import context, contribution_scores, contribution_threshold

L2 = 1e-4
FOLDS = 6
Rows = list[dict[str, float]]


def calibrate(train: Path, target: Path) -> dict[str, float]:
    """Fit both steps on the training split; the threshold by cross-validation over tasks."""
    papers = list(ncg.papers(train))
    rows = [features(ncg.items(p), p.title) for p in papers]
    gold = [np.array([float(i + 1 in p.gold) for i in range(len(p.lines))]) for p in papers]
    tasks = sorted({p.task for p in papers})
    fold_of = {
        task: i % FOLDS for i, task in enumerate(np.random.default_rng(0).permutation(tasks))
    }
    folds = np.array([fold_of[p.task] for p in papers])
    held_out: list[NDArray[np.float64]] = [np.zeros(0)] * len(papers)
    for fold in range(FOLDS):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        first, second = _fit_both([rows[i] for i in inside], [gold[i] for i in inside])
        for i in outside:
            held_out[i] = _predict(rows[i], first, second)
    scores, truth = np.concatenate(held_out), np.concatenate(gold)
    threshold = max(np.arange(0.1, 0.6, 0.01), key=lambda t: f1(truth, scores > t)[0])
    first, second = _fit_both(rows, gold)
    _write(target, first, second, float(threshold))
    f, precision, recall = f1(truth, scores > threshold)
    return {"f1": f, "precision": precision, "recall": recall, "threshold": float(threshold)}


def evaluate(test: Path) -> dict[str, float]:
    """Sentence F1 of the shipped scorer over all papers of a split (micro average)."""
    truth, guess = [], []
    for paper in ncg.papers(test):
        scores = contribution_scores(ncg.items(paper), paper.title)
        guess += [score > contribution_threshold() for score in scores]
        truth += [i + 1 in paper.gold for i in range(len(paper.lines))]
    f, precision, recall = f1(np.array(truth, float), np.array(guess))
    return {"f1": f, "precision": precision, "recall": recall}


def naive_bayes(train: Path, test: Path) -> dict[str, float]:
    """The baseline: words, word pairs, role and place; threshold by the best training F1."""
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    n = [0, 0]
    for paper in ncg.papers(train):
        for i, tokens in enumerate(_bayes_tokens(paper)):
            label = int(i + 1 in paper.gold)
            counts[label].update(tokens)
            n[label] += 1
    totals = [sum(c.values()) for c in counts]
    size = len(set(counts[0]) | set(counts[1]))

    def score(tokens: set[str]) -> float:
        ratio = math.log(n[1] / n[0])
        for token in tokens:
            present, absent = counts[1][token] + 1, counts[0][token] + 1
            ratio += math.log(present / (totals[1] + size)) - math.log(absent / (totals[0] + size))
        return ratio

    def collect(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        truth, scores = [], []
        for paper in ncg.papers(folder):
            scores += [score(tokens) for tokens in _bayes_tokens(paper)]
            truth += [float(i + 1 in paper.gold) for i in range(len(paper.lines))]
        return np.array(truth), np.array(scores)

    truth, scores = collect(train)
    cut = max(
        np.quantile(scores, np.linspace(0.7, 0.98, 60)), key=lambda t: f1(truth, scores > t)[0]
    )
    truth, scores = collect(test)
    f, precision, recall = f1(truth, scores > cut)
    return {"f1": f, "precision": precision, "recall": recall}


def f1(truth: NDArray[np.float64], guess: NDArray[np.bool_]) -> tuple[float, float, float]:
    """F1, precision and recall in per cent."""
    hits = float((truth * guess).sum())
    precision, recall = hits / max(guess.sum(), 1), hits / max(truth.sum(), 1)
    return 200 * precision * recall / max(precision + recall, 1e-9), 100 * precision, 100 * recall


def _bayes_tokens(paper: ncg.Paper) -> list[set[str]]:
    result = []
    lines = ncg.items(paper)
    for i, item in enumerate(lines):
        words = item.text.lower().split()
        pairs = {f"{a}_{b}" for a, b in zip(words, words[1:], strict=False)}
        result.append({*words, *pairs, f"@{item.role}", f"#{10 * i // len(lines)}"})
    return result


def _fit_both(
    rows: list[Rows], gold: list[NDArray[np.float64]]
) -> tuple[dict[str, float], dict[str, float]]:
    """The second step learns from first-step scores of papers that the first step did not see."""
    unseen: list[list[float]] = [[] for _ in rows]
    for part in range(5):
        inside = [i for i in range(len(rows)) if i % 5 != part]
        weights = _fit(
            [r for i in inside for r in rows[i]], np.concatenate([gold[i] for i in inside])
        )
        for i in range(part, len(rows), 5):
            unseen[i] = [_dot(row, weights) for row in rows[i]]
    truth = np.concatenate(gold)
    first = _fit([r for paper in rows for r in paper], truth)
    both = [
        {**row, **near}
        for paper, scores in zip(rows, unseen, strict=True)
        for row, near in zip(paper, context(scores), strict=True)
    ]
    return first, _fit(both, truth)


def _predict(rows: Rows, first: dict[str, float], second: dict[str, float]) -> NDArray[np.float64]:
    scores = [_dot(row, first) for row in rows]
    logits = [
        _dot({**row, **near}, second) for row, near in zip(rows, context(scores), strict=True)
    ]
    return 1 / (1 + np.exp(-np.array(logits)))


def _fit(rows: Rows, truth: NDArray[np.float64]) -> dict[str, float]:
    """Logistic regression with an L2 penalty."""
    names = sorted({name for row in rows for name in row})
    column = {name: i for i, name in enumerate(names)}
    matrix = torch.zeros(len(rows), len(names))
    for i, row in enumerate(rows):
        for name, value in row.items():
            matrix[i, column[name]] = value
    target = torch.tensor(truth, dtype=torch.float32)
    weights = torch.zeros(len(names), requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(matrix @ weights, target)
        loss = loss + L2 * weights.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return dict(zip(names, weights.detach().tolist(), strict=True))


def _dot(row: dict[str, float], weights: dict[str, float]) -> float:
    return sum(value * weights.get(name, 0.0) for name, value in row.items())


def _write(
    target: Path, first: dict[str, float], second: dict[str, float], threshold: float
) -> None:
    lines = [
        "# Weights of the contribution-sentence scorer. Written by `benchmarks/papers.py calibrate`",
        "# from the training split of NLPContributionGraph; do not edit by hand.",
        "",
        "[decision]",
        f"threshold = {threshold:.2f}",
    ]
    for name, weights in (("first", first), ("second", second)):
        lines += ["", f"[{name}]"]
        lines += [
            f'"{key}" = {value:.2f}'
            for key, value in sorted(weights.items())
            if abs(value) >= 0.005
        ]
    target.write_text("\n".join(lines) + "\n")
