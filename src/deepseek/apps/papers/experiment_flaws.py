"""The task `experiment_flaws`: flaws found by code, the soft ones put to a model."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from deepseek.apps.documents.document import Document, Span
from deepseek.apps.papers.analysis import Evidence, Finding
from deepseek.apps.papers.candidates import Outlook
from deepseek.apps.papers.flaws import Flaw, find_flaws
from deepseek.apps.papers.grounding import evidence_at
from deepseek.apps.papers.judge import NEUTRAL, Judge
from deepseek.apps.papers.tasks import FLAWS

MAX_FLAWS = 10
MIN_CONFIDENCE = 0.5  # below it a flaw is wrong more often than right, and is not reported
MODEL_WEIGHT = 0.5  # of the model's lean beside the confidence of the check, in log-odds
SEARCHED_ROLES = ("results", "experiments", "ablation", "abstract", "introduction", "other")


@dataclass(slots=True)
class FlawReview:
    """The flaws of one paper, and the model that is asked about the soft ones."""

    outlook: Outlook
    judge: Judge
    document: Document = field(init=False)
    flaws: list[Flaw] = field(init=False)

    def __post_init__(self) -> None:
        self.document = self.outlook.document
        # Without experiments only arithmetic can be wrong.
        self.flaws = [
            flaw
            for flaw in find_flaws(self.document)
            if self.outlook.has_evaluation or flaw.is_certain
        ][:MAX_FLAWS]

    @property
    def n_calls(self) -> int:
        """Calls of the model that `findings` will take."""
        return 2 * sum(1 for flaw in self.flaws if self._is_soft(flaw))

    def findings(
        self, tick: Callable[[int], None], is_over: Callable[[], bool]
    ) -> Iterator[Finding]:
        """The flaws that stand, the surest first."""
        for flaw in self.flaws:
            if is_over():
                return
            confidence = flaw.confidence
            evidence = self._evidence(flaw)
            if self._is_soft(flaw):
                lean = self._lean(flaw, evidence)
                tick(2)
                log_odds = math.log(confidence / (1 - confidence)) + MODEL_WEIGHT * lean
                confidence = 1 / (1 + math.exp(-log_odds))
            if confidence < MIN_CONFIDENCE:
                continue
            yield Finding(
                task=FLAWS,
                kind=flaw.kind,
                title=flaw.kind.replace("_", " ").capitalize(),
                statement=flaw.statement,
                confidence=round(confidence, 2),
                evidence=evidence,
                severity=flaw.severity,
                searched=flaw.searched,
                is_missing=bool(flaw.searched),
            )

    def _is_soft(self, flaw: Flaw) -> bool:
        return bool(flaw.question) and not flaw.is_certain and 0 < flaw.confidence < 1

    def _lean(self, flaw: Flaw, evidence: tuple[Evidence, ...]) -> float:
        quotes = "\n".join(f"- {e.quote}" for e in evidence)
        neutral = f"- {NEUTRAL[self.document.language]}"
        asked = self.judge.confirms(flaw.question, quotes)
        return asked - self.judge.confirms(flaw.question, neutral)

    def _evidence(self, flaw: Flaw) -> tuple[Evidence, ...]:
        """The flaw's quotes; for something missing, where one would look for it first."""
        quotes = flaw.evidence or self._first_looked_at()
        return tuple(evidence_at(self.document, q, self._section(q)) for q in quotes)

    def _first_looked_at(self) -> tuple[tuple[Span, ...], ...]:
        for role in SEARCHED_ROLES:
            for sentence in self.document.sentences:
                if self.document.section_of(sentence).role == role:
                    return (sentence.spans,)
        return ()

    def _section(self, spans: tuple[Span, ...]) -> str:
        """The title of the section in which a quote begins."""
        start = spans[0]
        for block in self.document.blocks:
            for span in block.spans:
                if span.page == start.page and span.start <= start.start < span.end:
                    return self.document.sections[block.section].title
        return ""
