"""What a paper analysis returns: findings with evidence that was checked against the paper."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepseek.apps.documents.document import Document, Span
from deepseek.core.llm import Attended

Severity = Literal["info", "minor", "major"]
InView = Literal["sentences", "paper"]


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
    title: str
    """The kind in words, in the paper's language."""
    statement: str
    confidence: float
    """0 to 1: calibrated on papers with known answers where the task has them."""
    evidence: tuple[Evidence, ...] = ()
    severity: Severity = "info"
    searched: str = ""
    """For something missing: where and for what was searched."""
    is_missing: bool = False
    """Whether the finding is that something is not there; the evidence is then the nearest."""
    in_view: InView = "sentences"
    """What the model had in view when it worded the statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """Findings of one task, best first, and a word on what could not be done."""

    task: str
    title: str
    findings: tuple[Finding, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeReading:
    """How a model had a paper as a whole in view."""

    extent: Literal["whole", "body"]
    """`body`: without the list of references."""
    n_tokens: int
    """Of the paper."""
    context_window: int
    attended: Attended | None
    """What the last token of the last answer saw; None: the model cannot say."""


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
    reading: WholeReading | None = None
    """None: it was read sentence by sentence only."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds per step."""
    settings: dict[str, Any] = field(default_factory=dict)
    document: Document | None = field(default=None, repr=False, compare=False)
    """The paper as it was read, for reports; not part of the JSON."""

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

    def __str__(self) -> str:
        return self.to_markdown()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the document, as plain values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del values["document"]
        values["tasks"] = [asdict(task) for task in self.tasks]
        values["reading"] = None if self.reading is None else asdict(self.reading)
        for task in values["tasks"]:
            for finding in task["findings"]:
                for evidence in finding["evidence"]:
                    evidence["page"] = evidence["spans"][0]["page"]
        return values

    def to_json(self) -> str:
        """JSON text; the same analysis gives the same text but for the timings."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n"

    def to_markdown(self) -> str:
        """A report in Markdown."""
        from deepseek.apps.papers.report.markdown import markdown_report

        return markdown_report(self)

    def to_html(self, pdf: str | Path | None = None) -> str:
        """A self-contained page: findings beside the page images, quotes highlighted.

        Args:
            pdf: The file to draw pages from; default: where the paper was read from. Without
                one, or if it changed since, the pages are shown as text.
        """
        from deepseek.apps.papers.report.html import html_report

        return html_report(self, Path(pdf) if pdf is not None else None)
