"""A trigram model with modified Kneser-Ney smoothing (Chen and Goodman), on hashes of words.

Probabilities are those of the textbook (interpolated; lower orders count in how many contexts
something stands). Tables are sorted arrays of 64-bit hashes: a text of a million words meets one
of a hundred million entries by chance with a probability below 10^-5.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt64

from deepseek.core.errors import ConfigError
from deepseek.data.grams import token_hashes
from deepseek.data.quality.layout import load_arrays, save_arrays

ORDER = 3
BEGIN = np.uint64(2)
"""Before a text's first word, twice: no word's hash, those are as good as random."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where there are too few counts to estimate them."""


@dataclass(frozen=True, slots=True)
class NgramModel:
    """Probabilities of words after the two before them."""

    grams: tuple[UInt64[np.ndarray, " _"], ...]
    """Sorted hashes of the runs of 1, 2 and 3 words."""
    shares: tuple[Float64[np.ndarray, " _"], ...]
    """Of each run: its discounted share of its context."""
    contexts: tuple[UInt64[np.ndarray, " _"], ...]
    """Sorted hashes of what stands before the last word, for 1 (nothing), 2 and 3 words."""
    backoffs: tuple[Float64[np.ndarray, " _"], ...]
    """Of each context: what the discounts left for the shorter context."""

    @classmethod
    def train(cls, texts: Iterable[str]) -> "NgramModel":
        """Count texts.

        Raises:
            ConfigError: They have no words.
        """
        stream = _stream([token_hashes(text) for text in texts])
        hashes, is_word = _hashes(stream), stream != BEGIN
        if not is_word.any():
            raise ConfigError("the reference texts have no words", "name others")
        tables = []
        # The highest order counts runs, each lower one the different words before its runs.
        ends = np.flatnonzero(is_word)
        for n in range(ORDER, 0, -1):
            # Run i of n words ends at place i of the stream; its context ends one before.
            runs = hashes[n][ends]
            grams, firsts, counts = np.unique(runs, return_index=True, return_counts=True)
            ends = ends[firsts]
            tables.append(_table(grams, hashes[n - 1][ends - 1], counts))
        tables.reverse()
        return cls(*zip(*tables, strict=True))

    def log_probabilities(
        self, words: Sequence[UInt64[np.ndarray, " _"]]
    ) -> list[Float64[np.ndarray, " _"]]:
        """The natural logarithm of each word's probability, text by text."""
        return self.by_order(words)[-1]

    def by_order(
        self, words: Sequence[UInt64[np.ndarray, " _"]]
    ) -> list[list[Float64[np.ndarray, " _"]]]:
        """The same for each word alone, after one word and after two."""
        stream = _stream(words)
        hashes, places = _hashes(stream), np.flatnonzero(stream != BEGIN)
        cuts = np.cumsum([len(part) for part in words])[:-1]
        probability = np.full(
            len(places), 1 / (len(self.grams[0]) + 1)
        )  # one for all unknown words
        found = []
        for n in range(1, ORDER + 1):
            left = _looked_up(self.contexts[n - 1], self.backoffs[n - 1], hashes[n - 1][places - 1])
            share = _looked_up(self.grams[n - 1], self.shares[n - 1], hashes[n][places])
            known = ~np.isnan(left)
            probability = np.where(known, np.nan_to_num(share) + left * probability, probability)
            found.append(np.split(np.log(probability), cuts))
        return found

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        kinds = ("grams", "shares", "contexts", "backoffs")
        arrays = {f"{k}{n}": getattr(self, k)[n] for k in kinds for n in range(ORDER)}
        save_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> "NgramModel":
        """Read it."""
        arrays = load_arrays(path)
        kinds = ("grams", "shares", "contexts", "backoffs")
        return cls(*(tuple(arrays[f"{k}{n}"] for n in range(ORDER)) for k in kinds))


def _stream(texts: Sequence[UInt64[np.ndarray, " _"]]) -> UInt64[np.ndarray, " S"]:
    """All words with two marks before each text, so that no run goes from one into the next."""
    marks = np.full(ORDER - 1, BEGIN, np.uint64)
    parts = [part for text in texts for part in (marks, np.where(text == BEGIN, ~BEGIN, text))]
    return np.concatenate([np.zeros(0, np.uint64), *parts])


def _hashes(stream: UInt64[np.ndarray, " S"]) -> list[UInt64[np.ndarray, " S"]]:
    """For n = 0 to 3 the hash of the n words that end at each place of the stream.

    The first places have no run of their length; marks stand there, and nobody asks.
    """
    found = [np.zeros(len(stream), np.uint64)]
    for _ in range(ORDER):
        longer = np.roll(found[-1], 1)
        longer *= _MULTIPLIER
        longer ^= longer >> _HALF
        longer ^= stream
        longer *= _MULTIPLIER
        longer ^= longer >> _HALF
        found.append(longer)
    return found


def _table(grams: np.ndarray, contexts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Shares and backoffs of one order, from the counts of its runs."""
    discounts = _discounts(counts)
    taken = discounts[np.minimum(counts, 3) - 1]
    keys, numbers = np.unique(contexts, return_inverse=True)
    totals = np.bincount(numbers, weights=counts)
    shares = (counts - taken) / totals[numbers]
    return grams, shares, keys, np.bincount(numbers, weights=taken) / totals


def _discounts(counts: np.ndarray) -> Float64[np.ndarray, " 3"]:
    """What is taken from runs that come once, twice, and more often."""
    n1, n2, n3, n4 = np.bincount(np.minimum(counts, 5), minlength=5)[1:5].astype(np.float64)
    if min(n1, n2, n3, n4) == 0:
        return np.array(FALLBACK)
    y = n1 / (n1 + 2 * n2)
    found = np.array([1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    fits = ((found > 0) & (found < np.array([1, 2, 3]))).all()
    return found if fits else np.array(FALLBACK)


def _looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Values of keys; NaN for those that are not there."""
    order = np.argsort(wanted)  # in order, the search stays within the processor's cache
    places = np.empty(len(wanted), np.int64)
    places[order] = np.searchsorted(keys, wanted[order])
    places[places == len(keys)] = 0
    found: np.ndarray = np.where(keys[places] == wanted, values[places], np.nan)
    return found
