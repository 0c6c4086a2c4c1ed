"""What a detector returns, and the table of detectors."""

from collections.abc import Callable
from dataclasses import dataclass

from deepseek.apps.documents.document import Span
from deepseek.apps.papers.analysis import Severity
from deepseek.apps.papers.flaws.paper import PaperView

Quote = tuple[Span, ...]
"""Spans of one quote; `Document.quote` prints it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """A question that a careful reviewer would put to the author."""

    kind: str
    severity: Severity
    statement: str
    """Plain words, with the numbers, tables and methods it is about."""
    confidence: float
    """0 to 1: how often such a finding was right on papers with known flaws."""
    evidence: tuple[Quote, ...] = ()
    """Quotes that show it, the most telling first."""
    searched: str = ""
    """For something missing: which words were sought where, and the closest sentence."""
    is_certain: bool = False
    """Whether it is pure arithmetic or comparison of texts: no judgement is needed."""
    question: str = ""
    """For a model to confirm: a yes/no question over the evidence. "Yes" means it is a flaw."""


Detector = Callable[[PaperView], list[Flaw]]

DETECTORS: dict[str, Detector] = {}
"""Every detector by its name, in the order in which they run. Add your own with `detector`."""


def detector(name: str) -> Callable[[Detector], Detector]:
    """Register a function that looks for one sort of flaw.

    Raises:
        ValueError: There is a detector of that name.
    """

    def register(function: Detector) -> Detector:
        if name in DETECTORS:
            raise ValueError(f"a flaw detector named {name!r} exists already")
        DETECTORS[name] = function
        return function

    return register
