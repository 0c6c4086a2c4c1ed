"""Operators that find stretches of a text and put a word in their place."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepseek.data.quality.document import Document
from deepseek.data.quality.operator import KEEP, Decision, Operator, Scores


@dataclass(frozen=True, slots=True)
class Finding:
    """A stretch of a text."""

    start: int
    end: int
    """Characters, end exclusive."""
    kind: str


class RedactingOperator(Operator):
    """Redacts what a subclass finds, or drops documents with too much of it."""

    kinds: ClassVar[Sequence[str]]
    """What it finds; each is a score."""

    @abstractmethod
    def findings(self, text: str) -> Iterable[Finding]:
        """What is found in a text; stretches may overlap."""

    def replacement(self, kind: str) -> str:
        """What stands in place of a finding."""
        return f"<{kind.upper()}>"

    def score(self, batch: Sequence[Document]) -> Scores:
        """How many of each kind."""
        counts = np.zeros((len(self.kinds), len(batch)))
        for row, document in enumerate(batch):
            for finding in disjoint(self.findings(document.text)):
                counts[self.kinds.index(finding.kind), row] += 1
        return dict(zip(self.kinds, counts, strict=True))

    def decide(self, batch: Sequence[Document], scores: Scores) -> list[Decision]:
        """Redact, or drop."""
        totals = sum(scores[kind] for kind in self.kinds)
        assert isinstance(totals, np.ndarray)
        decisions = [KEEP] * len(batch)
        for row in np.flatnonzero(totals).tolist():
            text, most = batch[row].text, self.settings.drop_from
            if most and totals[row] >= most:
                said = f"{self.name} findings {totals[row]:.0f} are {most} or more"
                decisions[row] = Decision(said)
                continue
            said = ", ".join(
                f"{scores[kind][row]:.0f} {kind.replace('_', ' ')}"
                for kind in self.kinds
                if scores[kind][row]
            )
            decisions[row] = Decision(text=self._redacted(text), edit=f"{said} redacted")
        return decisions

    def _redacted(self, text: str) -> str:
        parts, last = [], 0
        for finding in disjoint(self.findings(text)):
            parts += [text[last : finding.start], self.replacement(finding.kind)]
            last = finding.end
        return "".join([*parts, text[last:]])


def disjoint(findings: Iterable[Finding]) -> list[Finding]:
    """Findings in order; of those that overlap the first, of those the longest."""
    found: list[Finding] = []
    for finding in sorted(findings, key=lambda f: (f.start, -f.end)):
        if not found or finding.start >= found[-1].end:
            found.append(finding)
    return found
