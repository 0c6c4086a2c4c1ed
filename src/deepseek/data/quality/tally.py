"""What became of documents, counted so that counts of parts add up to counts of the whole."""

import heapq
import math
import re
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from deepseek.data.quality.document import Document

STEPS = 16
"""Bins of a histogram between a number and its double."""
ZERO, OFFSET = 0, 2_000
"""The bin of zero, and that of one."""
MAX_EXCERPT = 600
"""Characters of a sample."""


@dataclass(slots=True)
class Sample:
    """A document that an operator dropped or changed."""

    order: str
    """By a digest of its identifier: any part of the corpus has the same chance to be shown."""
    id: str
    domain: str
    reason: str
    text: str


@dataclass(slots=True)
class OperatorTally:
    """Of one operator."""

    seen: int = 0
    skipped: int = 0
    """Documents of domains that it is not for."""
    dropped: int = 0
    edited: int = 0
    seen_characters: int = 0
    dropped_characters: int = 0
    rules: dict[str, int] = field(default_factory=dict)
    """How often each rule was the reason."""
    histograms: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of each score, over all documents seen: `bins_of`, as text, to count."""
    dropped_histograms: dict[str, dict[str, int]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def add_score(self, name: str, values: np.ndarray, kept: np.ndarray) -> None:
        """Count values of a score, and among them those of documents that are not kept."""
        applies = ~np.isnan(values)
        bins, kept = bins_of(values[applies]), kept[applies]
        _add(self.histograms.setdefault(name, {}), _counts(bins))
        _add(self.dropped_histograms.setdefault(name, {}), _counts(bins[~kept]))

    def add_sample(self, document: Document, reason: str, n_samples: int) -> None:
        """Keep it if its digest is among the lowest."""
        order = blake2b(document.id.encode("utf-8", "replace"), digest_size=8).hexdigest()
        sample = Sample(order, document.id, document.domain, reason, document.text[:MAX_EXCERPT])
        self.samples = _lowest([*self.samples, sample], n_samples)

    def merge(self, other: "OperatorTally", n_samples: int) -> None:
        """Add what another one counted."""
        for name in ("seen", "skipped", "dropped", "edited", "seen_characters"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.dropped_characters += other.dropped_characters
        _add(self.rules, other.rules)
        for mine, theirs in (
            (self.histograms, other.histograms),
            (self.dropped_histograms, other.dropped_histograms),
        ):
            for score, bins in theirs.items():
                _add(mine.setdefault(score, {}), bins)
        self.samples = _lowest([*self.samples, *other.samples], n_samples)


@dataclass(slots=True)
class Tally:
    """Of a shard in a pass, or of everything."""

    read: dict[str, int] = field(default_factory=dict)
    """Documents by source."""
    read_characters: int = 0
    flaws: dict[str, int] = field(default_factory=dict)
    """Records put aside, by rule."""
    kept: dict[str, int] = field(default_factory=dict)
    """Documents by source, after the last operator."""
    kept_characters: int = 0
    operators: dict[str, OperatorTally] = field(default_factory=dict)

    def operator(self, label: str) -> OperatorTally:
        """Of one operator."""
        return self.operators.setdefault(label, OperatorTally())

    def merge(self, other: "Tally", n_samples: int) -> None:
        """Add what another one counted."""
        for mine, theirs in (
            (self.read, other.read),
            (self.flaws, other.flaws),
            (self.kept, other.kept),
        ):
            _add(mine, theirs)
        self.read_characters += other.read_characters
        self.kept_characters += other.kept_characters
        for label, tally in other.operators.items():
            self.operator(label).merge(tally, n_samples)

    def as_table(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> "Tally":
        """From `as_table`."""
        operators = {}
        for label, values in table["operators"].items():
            samples = [Sample(**sample) for sample in values["samples"]]
            operators[label] = OperatorTally(**(values | {"samples": samples}))
        return cls(**(table | {"operators": operators}))


def count(counts: dict[str, int], key: str, n: int = 1) -> None:
    """Add to a count."""
    counts[key] = counts.get(key, 0) + n


def rule_of(reason: str) -> str:
    """The part of a reason that documents with the same flaw share: up to its first figure."""
    return re.split(r"[\d:'\"@]|\bnan\b", reason, maxsplit=1)[0].strip(" (-") or reason[:40]


def bins_of(values: np.ndarray) -> np.ndarray:
    """The bins of numbers: zero has its own, others go by sign and sixteenths of an octave."""
    sizes = np.clip(np.abs(values), 1e-30, 1e30)
    numbers = np.rint(STEPS * np.log2(sizes)).astype(np.int64) + OFFSET
    bins: np.ndarray = np.where(values == 0, ZERO, np.where(values < 0, -numbers, numbers))
    return bins


def value_of(number: int) -> float:
    """The middle of a bin."""
    if number == ZERO:
        return 0.0
    return math.copysign(2.0 ** ((abs(number) - OFFSET) / STEPS), number)


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for key, n in more.items():
        count(counts, key, n)


def _counts(bins: np.ndarray) -> dict[str, int]:
    found, counts = np.unique(bins, return_counts=True)
    return dict(zip(map(str, found.tolist()), counts.tolist(), strict=True))


def _lowest(samples: list[Sample], n: int) -> list[Sample]:
    return heapq.nsmallest(n, samples, key=lambda s: (s.order, s.id, s.text))
