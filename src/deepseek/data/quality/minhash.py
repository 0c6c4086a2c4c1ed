"""Near duplicates by MinHash: 14 bands of 8 minima over runs of 5 words, as FineWeb does it.

Two documents whose runs overlap by a share s meet in a band with probability 1 - (1 - s^8)^14:
0.92 at s = 0.8, one half at 0.69. Groups are what such meetings connect.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt32, UInt64

from deepseek.data.quality.document import Document
from deepseek.data.quality.duplicates import DuplicateOperator
from deepseek.data.quality.operator import Context, Scores, Survey, require
from deepseek.data.quality.words import Words, words_of

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


@dataclass(frozen=True, slots=True)
class MinHashSettings:
    """The usual ones by default."""

    words: int = 5
    """Of a run."""
    bands: int = 14
    rows: int = 8
    """Minima of a band, which must all be equal."""


class MinHash(DuplicateOperator):
    """Drops documents that mostly repeat an earlier one."""

    name = "minhash"
    Settings = MinHashSettings
    relation = "near duplicate of"

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        sizes = (settings.words, settings.bands, settings.rows)
        require(
            min(sizes) >= 1 and max(sizes) <= 1_000,
            f"operators.minhash has words, bands and rows {sizes}",
            "each is 1 to 1000",
        )
        n = settings.bands * settings.rows
        keys = np.frombuffer(
            b"".join(blake2b(str(i).encode(), digest_size=8).digest() for i in range(n)), "<u4"
        ).reshape(n, 2)
        self._factors, self._terms = keys[:, 0] | 1, keys[:, 1]

    def score(self, batch: Sequence[Document]) -> Scores:
        """A 64-bit key of each band; 0 in all bands where there is no run."""
        runs, starts = run_hashes(
            words_of([document.text for document in batch]), self.settings.words
        )
        bands = np.zeros((len(batch), self.settings.bands), np.uint64)
        rows = np.flatnonzero(np.diff(starts))
        if rows.size:
            minima = self._minima(runs, starts[rows])
            for band in range(self.settings.bands):
                bands[rows, band] = _key(minima, band * self.settings.rows, self.settings.rows)
        return {"bands": bands}

    def _minima(self, runs: UInt32[np.ndarray, " R"], starts: np.ndarray) -> np.ndarray:
        """[bands * rows, n]: the least value of each document's runs under each hash."""
        minima = np.empty((len(self._factors), len(starts)), np.uint32)
        values = np.empty_like(runs)
        for i, (factor, term) in enumerate(zip(self._factors, self._terms, strict=True)):
            np.multiply(runs, factor, out=values)
            np.add(values, term, out=values)
            # The low bits of a product are those of its factors: the high ones must come down.
            np.bitwise_xor(values, values >> np.uint32(15), out=values)
            np.minimum.reduceat(values, starts, out=minima[i])
        return minima

    def leaders(self, survey: Survey) -> Int64[np.ndarray, " N"]:
        """The first document of each connected group; one band in memory at a time."""
        groups = Groups(len(survey.numbers))
        for band in range(self.settings.bands if len(survey.numbers) else 0):
            keys = np.array(survey.scores["bands"][:, band])
            order = np.argsort(keys, kind="stable")
            sorted_ = keys[order]
            meets = np.flatnonzero((sorted_[1:] == sorted_[:-1]) & (sorted_[1:] != 0))
            for first, second in zip(order[meets].tolist(), order[meets + 1].tolist(), strict=True):
                groups.join(first, second)
        return groups.firsts()


class Groups:
    """Rows that are joined, directly or through others; the lowest row stands for its group."""

    def __init__(self, n: int) -> None:
        self._parents = array("q", range(n))

    def find(self, row: int) -> int:
        """The row that stands for a row's group."""
        parents = self._parents
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    def join(self, first: int, second: int) -> None:
        """Make one group of two."""
        low, high = sorted((self.find(first), self.find(second)))
        self._parents[high] = low

    def firsts(self) -> Int64[np.ndarray, " N"]:
        """Of every row."""
        return np.array([self.find(row) for row in range(len(self._parents))], np.int64)


def run_hashes(
    words: Words, n: int
) -> tuple[UInt32[np.ndarray, " R"], Int64[np.ndarray, " n_plus_1"]]:
    """The hash of each run of n words (signs do not count), and where each document's begin."""
    is_word = words.hashes != 0
    counts = words.sums(is_word)
    hashes = words.hashes[is_word]
    n_runs = np.maximum(counts - n + 1, 0)
    state = np.zeros(max(0, len(hashes) - n + 1), np.uint64)
    for i in range(n):
        state ^= hashes[i : i + len(state)]
        state *= _MULTIPLIER
        state ^= state >> _HALF
    ends = np.cumsum(counts)
    place = np.arange(len(state))
    document = np.searchsorted(ends, place, side="right")
    inside = place + n <= ends[document] if len(state) else np.zeros(0, bool)
    starts = np.concatenate([[0], np.cumsum(n_runs)]).astype(np.int64)
    return (state[inside] >> _HALF).astype(np.uint32), starts


def _key(minima: np.ndarray, start: int, rows: int) -> UInt64[np.ndarray, " n"]:
    key = np.zeros(minima.shape[1], np.uint64)
    for i in range(start, start + rows):
        key ^= minima[i]
        key *= _MULTIPLIER
        key ^= key >> _HALF
    return key | np.uint64(1)  # 0 is kept for documents without a run
