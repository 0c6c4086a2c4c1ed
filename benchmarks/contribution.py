"""Fits and evaluates the contribution-sentence scorer, and the naive Bayes it is compared with.

    python benchmarks/contribution.py cross-validate TRAIN   # F1 on tasks the network never saw
    python benchmarks/contribution.py calibrate TRAIN        # the same, then write the weights
    python benchmarks/contribution.py evaluate TEST
    python benchmarks/contribution.py naive-bayes TRAIN TEST

TRAIN and TEST are folders of the NLPContributionGraph data (see `ncg.py`).
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import bayes
import ncg
from contribution_fit import Example, Recipe, examples, fit, predict
from deepseek.apps.papers import scorer
from deepseek.apps.papers.scorer import Codebook, Network

TARGET = Path(scorer.__file__).parent / scorer.WEIGHTS
naive_bayes = bayes.naive_bayes


def cross_validate(
    papers: Sequence[Example], recipe: Recipe, only: Sequence[int] = ()
) -> dict[str, float]:
    """Micro F1 over sentences of held-out tasks, at the threshold that is best over all of them."""
    folds = ncg.fold_by_task([p.task for p in papers])
    truth: list[NDArray[np.float32]] = []
    scores: list[NDArray[np.float64]] = []
    parts: dict[int, list[int]] = defaultdict(list)
    for fold in only or sorted(set(folds)):
        seen = [p for p, f in zip(papers, folds, strict=True) if f != fold]
        book, network = fit(seen, recipe)
        for paper, f in zip(papers, folds, strict=True):
            if f == fold:
                parts[fold].append(len(truth))
                truth.append(paper.gold)
                scores.append(predict(book, network, paper))
    y, p = np.concatenate(truth), np.concatenate(scores)
    threshold = max(np.arange(0.1, 0.6, 0.01), key=lambda t: bayes.f1(y, p > t)["f1"])
    result = bayes.f1(y, p > threshold) | {"threshold": round(float(threshold), 2)}
    for fold, places in parts.items():
        held = np.concatenate([scores[i] for i in places]) > threshold
        result[f"f1 of fold {fold}"] = bayes.f1(np.concatenate([truth[i] for i in places]), held)[
            "f1"
        ]
    return result


def calibrate(train: Path, target: Path = TARGET, recipe: Recipe | None = None) -> dict[str, float]:
    """Choose the threshold by cross-validation over tasks, fit on all papers, write the weights."""
    recipe = recipe or Recipe()
    papers = examples(train)
    report = cross_validate(papers, recipe)
    book, network = fit(papers, recipe)
    _write(target, book, network, report["threshold"], recipe)
    return report


def evaluate(test: Path) -> dict[str, float]:
    """Micro F1 of the shipped scorer over all sentences of a split; how often its unit is right.

    The unit counts on the contribution sentences of which the data tell it.
    """
    truth, guess, units = [], [], []
    for paper in ncg.papers(test):
        guesses = scorer.contribution_guesses(ncg.items(paper), paper.title)
        guess += [g.score > scorer.contribution_threshold() for g in guesses]
        truth += [i + 1 in paper.gold for i in range(len(paper.lines))]
        units += [
            g.unit == unit
            for i, (g, unit) in enumerate(zip(guesses, ncg.units(paper), strict=True))
            if i + 1 in paper.gold and unit is not None
        ]
    result = bayes.f1(np.array(truth, np.float32), np.array(guess))
    return result | {"unit_accuracy": 100 * sum(units) / max(len(units), 1)}


def _write(target: Path, book: Codebook, network: Network, threshold: float, r: Recipe) -> None:
    """Eight bits a weight, one scale for each row."""
    arrays: dict[str, NDArray[np.generic]] = {
        "words": np.frombuffer("\n".join(book.words).encode(), np.uint8),
        "features": np.frombuffer("\n".join(book.features).encode(), np.uint8),
        "shape": np.array([r.members, r.width, r.hidden, r.layers]),
        "threshold": np.array(threshold),
    }
    for name, tensor in network.state_dict().items():
        values = tensor.numpy()
        inner = tuple(range(min(1, values.ndim - 1), values.ndim))
        scale = np.abs(values).max(axis=inner, keepdims=True).clip(1e-8) / 127
        arrays[f"int8:{name}"] = np.round(values / scale).astype(np.int8)
        arrays[f"scale:{name}"] = scale.astype(np.float32)
    np.savez_compressed(target, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "command", choices=("cross-validate", "calibrate", "evaluate", "naive-bayes")
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--folds", type=int, nargs="*", default=[])
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args())
    command, folders, folds = options.pop("command"), options.pop("folders"), options.pop("folds")
    recipe = Recipe(**options)
    torch.set_num_threads(1)
    if command == "cross-validate":
        report = cross_validate(examples(folders[0]), recipe, folds)
    elif command == "calibrate":
        report = calibrate(folders[0], recipe=recipe)
    else:
        report = evaluate(folders[0]) if command == "evaluate" else naive_bayes(*folders)
    print(json.dumps({name: round(value, 2) for name, value in report.items()}))


if __name__ == "__main__":
    main()
