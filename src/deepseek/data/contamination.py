"""An index of evaluation items by their 13-grams, to keep them out of training data.

What matches is a run of 13 tokens that an item and a document share, after case, punctuation
and white space are evened out (`deepseek.data.grams`). Items of 8 to 12 tokens are one gram in
all; shorter ones say too little and are left out. Paraphrases and translations are not found.

A document of a million tokens meets an index of ten million grams by chance with a probability
of 10^6 * 10^7 / 2^64, less than one in a million: a match is a match.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from jaxtyping import UInt32

from deepseek.data.grams import (
    GRAM,
    SHORTEST,
    Hashes,
    count_words,
    gram_hashes,
    token_hashes,
    token_places,
)
from deepseek.data.index_file import (
    IndexArrays,
    IndexedTask,
    IndexInfo,
    read_index,
    write_index,
)

MAX_TEXTS = 50
"""A gram of more texts of one task is a set phrase of that task, not the content of an item."""
MIN_WORDS = 4
"""Different words in a gram: rows of numbers, letters and truth values stand in any program."""


@dataclass(frozen=True, slots=True)
class Match:
    """A stretch of a document that stands in evaluation sets, too."""

    start: int
    end: int
    """Characters of the document, end exclusive."""
    n_tokens: int
    tasks: tuple[str, ...]


class ContaminationIndex:
    """The grams of evaluation sets; built once, then asked about documents."""

    def __init__(self, info: IndexInfo, arrays: IndexArrays) -> None:
        """Use `build` or `load`."""
        self.info = info
        self._grams = {n: array for n, array in arrays.grams.items() if array.size}
        self._owners = {n: arrays.owners[n] for n in self._grams}
        self._sets = arrays.owner_sets

    def __str__(self) -> str:
        n_texts = sum(task.n_texts for task in self.info.tasks)
        return f"{self.n_grams:,} grams of {n_texts:,} texts from {len(self.info.tasks)} tasks"

    @property
    def n_grams(self) -> int:
        """All grams of all lengths."""
        return sum(array.size for array in self._grams.values())

    @classmethod
    def build(
        cls,
        texts: Iterable[tuple[str, str]],
        *,
        licences: Mapping[str, str] | None = None,
        sources: Mapping[str, str] | None = None,
    ) -> "ContaminationIndex":
        """Index texts.

        Args:
            texts: Task and text: what is particular to an item, without its prompt's template.
            licences: Of each task.
            sources: Names of the files that the texts come from and their SHA-256.
        """
        collector = _Collector()
        for task, text in texts:
            collector.add(task, text)
        tasks = tuple(
            IndexedTask(
                name=name,
                licence=(licences or {}).get(name, "see the data's source"),
                n_texts=collector.n_texts[name],
                n_skipped=collector.n_skipped[name],
            )
            for name in collector.n_texts
        )
        grams: dict[int, Hashes] = {}
        owners: dict[int, UInt32[np.ndarray, " n"]] = {}
        sets: dict[tuple[int, ...], int] = {}
        n_dropped = 0
        for length in range(SHORTEST, GRAM + 1):
            by_task, dropped = collector.grams(length)
            n_dropped += dropped
            grams[length], owners[length] = _merged(by_task, sets)
        info = IndexInfo(tasks=tasks, sources=dict(sources or {}), n_set_phrases=n_dropped)
        return cls(info, IndexArrays(grams, owners, tuple(sets)))

    def matches(self, text: str) -> list[Match]:
        """Where a document repeats evaluation items; overlapping grams make one match."""
        hits = self._hits(token_hashes(text))
        if not hits:
            return []
        places = token_places(text)
        found = []
        for first, last, sets in _joined(hits):
            tasks = {self.info.tasks[i].name for s in sets for i in self._sets[s]}
            start, end = int(places[first, 0]), int(places[last - 1, 1])
            found.append(Match(start, end, last - first, tuple(sorted(tasks))))
        return found

    def share(self, text: str) -> float:
        """Which part of a document's 13-grams stands in evaluation items.

        A document of 8 to 12 tokens has one gram, itself; a shorter one has none: 0.
        """
        tokens = token_hashes(text)
        if len(tokens) < SHORTEST:
            return 0.0
        length = min(len(tokens), GRAM)
        n_hits = sum(n == length for _, n, _ in self._hits(tokens))
        return n_hits / (len(tokens) - length + 1)

    def _hits(self, tokens: Hashes) -> list[tuple[int, int, int]]:
        """First token, length and owner set of each gram that is in the index."""
        hits: list[tuple[int, int, int]] = []
        if not self._grams:
            return hits
        for length, hashes in gram_hashes(tokens, self._grams):
            known = self._grams[length]
            order = np.argsort(hashes)  # in order, the search stays within the processor's cache
            places = np.searchsorted(known, hashes[order])
            places[places == known.size] = 0
            found = known[places] == hashes[order]
            owners = self._owners[length][places[found]]
            hits += [(int(i), length, int(s)) for i, s in zip(order[found], owners, strict=True)]
        return hits

    def save(self, path: Path) -> int:
        """Write one file, whole or not at all, and return its bytes.

        Raises:
            ConfigError: The place cannot be written.
        """
        return write_index(path, self.info, IndexArrays(self._grams, self._owners, self._sets))

    @classmethod
    def load(cls, path: Path) -> "ContaminationIndex":
        """Read a saved index.

        Raises:
            ConfigError: The file is missing, damaged or no index of this version.
        """
        return cls(*read_index(path))


class _Collector:
    """The grams of each task while its texts go by."""

    def __init__(self) -> None:
        self.n_texts: dict[str, int] = {}
        self.n_skipped: dict[str, int] = {}
        self._seen: set[tuple[str, bytes]] = set()
        self._parts: dict[int, dict[str, list[Hashes]]] = {}

    def add(self, task: str, text: str) -> None:
        """Take the grams of a text, unless the task has had the same text."""
        self.n_texts.setdefault(task, 0)
        self.n_skipped.setdefault(task, 0)
        tokens = token_hashes(text)
        key = (task, blake2b(tokens.tobytes(), digest_size=12).digest())
        if len(tokens) < SHORTEST or key in self._seen:
            self.n_skipped[task] += 1
            return
        self._seen.add(key)
        self.n_texts[task] += 1
        length = min(len(tokens), GRAM)
        for _, hashes in gram_hashes(tokens, (length,)):
            parts = self._parts.setdefault(length, {}).setdefault(task, [])
            parts.append(np.unique(hashes[count_words(tokens, length) >= MIN_WORDS]))

    def grams(self, length: int) -> tuple[list[Hashes], int]:
        """The grams of each task, in the tasks' order, and how many were set phrases."""
        arrays, n_dropped = [], 0
        for task in self.n_texts:
            parts = self._parts.get(length, {}).pop(task, [])
            grams, counts = np.unique(
                np.concatenate([np.zeros(0, np.uint64), *parts]), return_counts=True
            )
            n_dropped += int((counts > MAX_TEXTS).sum())
            arrays.append(grams[counts <= MAX_TEXTS])
        return arrays, n_dropped


def _merged(
    by_task: list[Hashes], sets: dict[tuple[int, ...], int]
) -> tuple[Hashes, UInt32[np.ndarray, " n"]]:
    """All tasks' grams in one sorted array, with the number of each one's set of tasks.

    Args:
        by_task: Different grams of each task.
        sets: The sets of tasks that are known; new ones are added.
    """
    everything = np.concatenate([np.zeros(0, np.uint64), *by_task])
    tasks = np.repeat(np.arange(len(by_task)), [array.size for array in by_task])
    if not everything.size:
        return everything, np.zeros(0, np.uint32)
    order = np.argsort(everything, kind="stable")  # so the tasks of a gram stay in their order
    everything, tasks = everything[order], tasks[order]
    starts = np.flatnonzero(np.r_[True, everything[1:] != everything[:-1]])
    ends = np.r_[starts[1:], everything.size]
    # A set of tasks is told by the sum of its tasks' 64-bit keys.
    digests = (blake2b(str(i).encode(), digest_size=8).digest() for i in range(len(by_task)))
    keys = np.array([int.from_bytes(d, "little") for d in digests], dtype=np.uint64)
    _, firsts, kinds = np.unique(
        np.add.reduceat(keys[tasks], starts), return_index=True, return_inverse=True
    )
    numbers = [
        sets.setdefault(tuple(tasks[starts[f] : ends[f]].tolist()), len(sets)) for f in firsts
    ]
    return everything[starts], np.array(numbers, dtype=np.uint32)[kinds]


def _joined(hits: Iterable[tuple[int, int, int]]) -> Iterable[tuple[int, int, set[int]]]:
    """Runs of overlapping hits: first token, token after the last, and their owner sets."""
    first, last, sets = -1, -1, set[int]()
    for start, length, owner in sorted(hits):
        if start >= last and sets:
            yield first, last, sets
            sets = set()
        if not sets:
            first = start
        last = max(last, start + length) if sets else start + length
        sets.add(owner)
    if sets:
        yield first, last, sets
