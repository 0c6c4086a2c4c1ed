"""A logistic classifier on hashed words and pairs of words, trained with NumPy alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from deepseek.data.grams import gram_hashes, token_hashes
from deepseek.data.quality.layout import load_arrays, save_arrays

BITS = 20
"""Features: the highest bits of a hash. Those that meet share a weight."""
EPOCHS, BATCH, RATE, DECAY = 8, 32, 0.5, 1e-6


@dataclass(frozen=True, slots=True)
class LogisticModel:
    """Weights; a text's score is the mean over its features, by the square root of their number."""

    weights: Float64[np.ndarray, " features"]
    bias: float

    @classmethod
    def train(cls, good: Sequence[str], bad: Sequence[str], seed: int = 0) -> "LogisticModel":
        """Both sides weigh the same, whatever their sizes (Adagrad; deterministic)."""
        rows = [features(text) for text in (*good, *bad)]
        labels = np.r_[np.ones(len(good)), np.zeros(len(bad))]
        sides = np.where(labels == 1, 0.5 / max(1, len(good)), 0.5 / max(1, len(bad))) * len(rows)
        weights, squares = np.zeros(1 << BITS), np.full(1 << BITS, 1e-3)
        bias, generator = 0.0, np.random.Generator(np.random.PCG64(seed))
        for _ in range(EPOCHS):
            order = generator.permutation(len(rows))
            for start in range(0, len(rows), BATCH):
                chosen = order[start : start + BATCH]
                some = [rows[i] for i in chosen]
                error = (_chances(weights, bias, some) - labels[chosen]) * sides[chosen]
                sizes = np.array([len(row) for row in some])
                each = np.repeat(error / np.sqrt(np.maximum(1, sizes)), sizes)
                indices, places = np.unique(np.concatenate(some), return_inverse=True)
                slope = np.bincount(places, weights=each) / len(chosen) + DECAY * weights[indices]
                squares[indices] += slope**2
                weights[indices] -= RATE * slope / np.sqrt(squares[indices])
                bias -= RATE * float(error.mean()) / 4
        return cls(weights, bias)

    def chances(self, texts: Sequence[str]) -> Float64[np.ndarray, " n"]:
        """The probability that each text is a good one."""
        return _chances(self.weights, self.bias, [features(text) for text in texts])

    def save(self, path: Path) -> None:
        """Write it, whole or not at all; most weights are zero."""
        indices = np.flatnonzero(self.weights)
        arrays = {"indices": indices, "weights": self.weights[indices]}
        save_arrays(path, arrays | {"bias": np.array([self.bias])})

    @classmethod
    def load(cls, path: Path) -> "LogisticModel":
        """Read it."""
        arrays = load_arrays(path)
        weights = np.zeros(1 << BITS)
        weights[arrays["indices"]] = arrays["weights"]
        return cls(weights, float(arrays["bias"][0]))


def features(text: str) -> Int64[np.ndarray, " _"]:
    """Different words and pairs of neighbours of a text, as places of weights."""
    words = token_hashes(text)
    if not len(words):
        return np.zeros(0, np.int64)
    found = [hashes >> np.uint64(64 - BITS) for _, hashes in gram_hashes(words, (1, 2))]
    places: Int64[np.ndarray, " _"] = np.unique(np.concatenate(found)).astype(np.int64)
    return places


def _chances(
    weights: Float64[np.ndarray, " features"], bias: float, rows: Sequence[np.ndarray]
) -> Float64[np.ndarray, " n"]:
    sizes = np.maximum(1, [len(row) for row in rows])
    # Each text by itself: sums over a whole batch would round differently in another batch.
    sums = np.array([weights[row].sum() for row in rows])
    found: Float64[np.ndarray, " n"] = 1 / (1 + np.exp(-sums / np.sqrt(sizes) - bias))
    return found
