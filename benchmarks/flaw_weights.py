"""Fits the weights of the flaw detectors: `python benchmarks/flaw_weights.py FOLDER…`.

Every paper is read as it is and with each flaw planted. A candidate of a planted document that
touches the plant is a flaw; all others are none. One logistic regression per group, with a ridge;
written to `src/deepseek/apps/papers/flaws/weights.toml`. Use training papers only.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepseek.apps.documents.document import Document
from deepseek.apps.papers.flaws import gains, mismatch, renamed, sweeps
from deepseek.apps.papers.flaws.paper import PaperView
from deepseek.apps.papers.flaws.suspicion import Candidate
from flaws import documents, touches
from plants import Plant, plants

FILE = Path(__file__).parents[1] / "src/deepseek/apps/papers/flaws/weights.toml"
GROUPS = {
    "number": (mismatch.candidates, ("number",)),
    "gain": (gains.gains, ("claim",)),
    "sweep": (sweeps.sweeps, ("claim",)),
    "metric": (renamed.candidates, ("metric",)),
}
"""What yields each group's candidates, and the plants that it should find."""


def samples(papers: Iterable[Document], seeds: int) -> dict[str, list[tuple[Candidate, bool]]]:
    """Candidates of every group with the answer."""
    found: dict[str, list[tuple[Candidate, bool]]] = {group: [] for group in GROUPS}
    for document in papers:
        kinds = {kind for _, wanted in GROUPS.values() for kind in wanted}
        planted = [
            p for seed in range(seeds) for p in plants(document, f"{document.id} {seed}", kinds)
        ]
        untouched = {group: find(PaperView(document)) for group, (find, _) in GROUPS.items()}
        for group, (candidates, kinds) in GROUPS.items():
            for plant in planted:
                if plant.kind in kinds:
                    found[group] += _answers(candidates(PaperView(plant.document)), plant)
                    found[group] += [(c, False) for c in untouched[group]]
    return found


def _answers(candidates: list[Candidate], plant: Plant) -> Iterator[tuple[Candidate, bool]]:
    for candidate in candidates:
        yield candidate, touches(candidate.flaw, plant.spans)


def fit(rows: list[tuple[Candidate, bool]], ridge: float = 4.0) -> dict[str, float]:
    """Logistic regression by Newton's method."""
    names = sorted({name for candidate, _ in rows for name in candidate.features})
    x = np.array([[1.0, *(c.features.get(n, 0.0) for n in names)] for c, _ in rows])
    y = np.array([float(answer) for _, answer in rows])
    w: NDArray[np.float64] = np.zeros(x.shape[1])
    penalty = ridge * np.eye(x.shape[1])
    penalty[0, 0] = 1e-6
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ w))
        gradient = x.T @ (p - y) + penalty @ w
        hessian = (x * (p * (1 - p))[:, None]).T @ x + penalty
        w -= np.linalg.solve(hessian, gradient)
    p = 1 / (1 + np.exp(-x @ w))
    for threshold in (0.3, 0.4, 0.5, 0.6):
        chosen = p >= threshold
        print(f"  >= {threshold}: {int(chosen.sum())} of {len(y)}, right {y[chosen].mean():.2f}, "
              f"found {y[chosen].sum() / max(y.sum(), 1):.2f} of {int(y.sum())}")  # fmt: skip
    return dict(zip(["bias", *names], (round(float(v), 4) for v in w), strict=True))


def write(found: dict[str, list[tuple[Candidate, bool]]]) -> None:
    """Fit every group and write the file."""
    lines = ["# Written by benchmarks/flaw_weights.py. Weights of a logistic model per group."]
    for group, rows in found.items():
        print(group)
        lines += ["", f"[{group}]", *(f"{k} = {v}" for k, v in fit(rows).items())]
    FILE.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seeds", type=int, default=3, help="plants of each sort per paper")
    arguments = parser.parse_args()
    write(samples(documents(arguments.folders, arguments.limit), arguments.seeds))


if __name__ == "__main__":
    main()
