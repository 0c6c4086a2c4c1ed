"""What a paper analysis returns: findings with evidence that was checked against the paper."""

from dataclasses import dataclass, field
from typing import Any, Literal

from deepseek.apps.documents.document import Span

Severity = Literal["info", "minor", "major"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A verbatim quote. `quote` is the document's own text at `spans`."""

    quote: str
    spans: tuple[Span, ...]
    section: str
    verified: bool
    """Whether the quote was found again, character by character, at its spans."""

    @property
    def page(self) -> int:
        """Page (from 1) on which the quote begins."""
        return self.spans[0].page


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One statement about the paper, with what supports it."""

    task: str
    kind: str
    """What sort of finding, e.g. `method`, `result`, `no_ablation`, `text_table_mismatch`."""
    statement: str
    confidence: float
    """0 to 1: calibrated on papers with known answers where the task has them."""
    evidence: tuple[Evidence, ...] = ()
    severity: Severity = "info"
    searched: str = ""
    """For something missing: where and for what was searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """Findings of one task, best first, and a word on what could not be done."""

    task: str
    title: str
    findings: tuple[Finding, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperAnalysis:
    """The answer of `R1Model.analyze_paper`."""

    title: str
    source: str
    document_id: str
    n_pages: int
    language: str
    model: str
    tasks: tuple[TaskResult, ...]
    sections: tuple[tuple[str, str, int], ...] = ()
    """Title, role and page of each section."""
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds per step."""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings of all tasks."""
        return tuple(f for t in self.tasks for f in t.findings)

    def __getitem__(self, task: str) -> TaskResult:
        """The result of one task by its name."""
        for result in self.tasks:
            if result.task == task:
                return result
        raise KeyError(f"{task!r}; this analysis has: {', '.join(t.task for t in self.tasks)}")
