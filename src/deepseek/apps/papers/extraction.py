"""Findings of one facet: judge the candidates, join what says the same, word a statement."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from deepseek.apps.papers.analysis import Evidence, Finding
from deepseek.apps.papers.candidates import Outlook, rank_candidates
from deepseek.apps.papers.grounding import evidence_at, numbers_of
from deepseek.apps.papers.judge import Judge
from deepseek.apps.papers.tasks import Facet, Task
from deepseek.apps.papers.writer import Writer

Tick = Callable[[int], None]
IsOver = Callable[[], bool]

SCORE_WEIGHT = 0.35  # of the cheap score beside the model's lean when candidates are ordered
NO_PAPER = 0.8  # nats more that are needed where the questions hardly fit, as in a manual
SAME = 0.36  # share of common words from which two sentences say the same
MAX_EVIDENCE = 3
SECTIONS = {"en": "sections", "zh": "个章节"}


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with the model's view of it."""

    index: int
    """Of the sentence in the document."""
    lean: float
    """Nats towards Yes above the baseline."""
    rank: float
    """Lean and cheap score together: the order of findings."""


@dataclass(slots=True)
class FacetSearch:
    """Finds what a paper says on facets."""

    outlook: Outlook
    judge: Judge
    writer: Writer
    _leans: dict[tuple[str, int], float] = field(default_factory=dict)

    def findings(self, task: Task, tick: Tick, is_over: IsOver) -> Iterator[Finding]:
        """Findings of a task, facet by facet.

        Args:
            task: What is asked.
            tick: Told of each call of the model.
            is_over: Whether to stop.
        """
        used: set[int] = set()
        for facet in task.facets:
            candidates = self._judged(facet, tick, is_over)
            groups = self._groups([c for c in candidates if c.index not in used], facet)
            for group in groups:
                if is_over():
                    return
                used.update(c.index for c in group)
                yield self._finding(task, facet, group)
                tick(1)
            missing = facet.missing.get(self.outlook.document.language)
            applies = self.outlook.has_evaluation or not facet.evaluation
            if missing and applies and not groups and not is_over():
                yield self._missing(task, facet, missing)

    def _judged(self, facet: Facet, tick: Tick, is_over: IsOver) -> list[Judged]:
        """Candidates that state the facet's claim, best first."""
        language = self.outlook.document.language
        claim = facet.claim[language]
        candidates = rank_candidates(self.outlook, facet, facet.ask[language])
        if not candidates or is_over():
            return []
        best = max(score for _, score in candidates)
        baseline = self.judge.baseline(claim)
        tick(1)
        judged = []
        for index, score in candidates:
            if is_over():
                break
            lean = self._lean(claim, index) - baseline
            tick(1)
            # Scores of a search have no fixed scale: relative to the best they have.
            scale = 4 * score / best if facet.search else score
            judged.append(Judged(index, lean, lean + SCORE_WEIGHT * scale))
        needed = facet.min_lean + (0.0 if self.outlook.is_paper else NO_PAPER)
        kept = [c for c in judged if c.lean >= needed]
        return sorted(kept, key=lambda c: (-c.rank, c.index))

    def _lean(self, claim: str, index: int) -> float:
        if (claim, index) not in self._leans:
            sentence = self.outlook.document.sentences[index]
            section = self.outlook.document.section_of(sentence).title
            self._leans[claim, index] = self.judge.states(claim, self.outlook.texts[index], section)
        return self._leans[claim, index]

    def _groups(self, candidates: list[Judged], facet: Facet) -> list[list[Judged]]:
        """The best candidates, each with others that say the same as further evidence."""
        groups: list[list[Judged]] = []
        for candidate in candidates:
            same = [g for g in groups if self._similarity(g[0].index, candidate.index) >= SAME]
            if same:
                if len(same[0]) < MAX_EVIDENCE:
                    same[0].append(candidate)
            elif len(groups) < facet.max_findings:
                groups.append([candidate])
        return groups

    def _similarity(self, a: int, b: int) -> float:
        """Common content words as a share of both sentences' (Dice), the title's left out."""
        left = set(self.outlook.words[a]) - self.outlook.title_words
        right = set(self.outlook.words[b]) - self.outlook.title_words
        if not left or not right:
            return 1.0  # it only names the subject
        numbers = [numbers_of(self.outlook.texts[i]) for i in (a, b)]
        if all(numbers) and not numbers[0] & numbers[1]:
            return 0.0  # two results, not one
        return 2 * len(left & right) / (len(left) + len(right))

    def _finding(self, task: Task, facet: Facet, group: list[Judged]) -> Finding:
        question = facet.ask[self.outlook.document.language]
        evidence = tuple(self._evidence(c.index) for c in group)
        # From the first quote only: the others say the same, perhaps with other numbers.
        statement, _ = self.writer.statement(question, evidence[0].quote)
        return Finding(
            task=task.name,
            kind=facet.kind,
            title=facet.title[self.outlook.document.language],
            statement=statement,
            confidence=round(1 / (1 + math.exp(-group[0].lean)), 2),
            evidence=evidence,
        )

    def _evidence(self, index: int) -> Evidence:
        document = self.outlook.document
        sentence = document.sentences[index]
        return evidence_at(document, sentence.spans, document.section_of(sentence).title)

    def _missing(self, task: Task, facet: Facet, statement: str) -> Finding:
        """Something that was looked for and not found, with where and the nearest sentence."""
        document = self.outlook.document
        sections = [s.title for s in document.sections if s.title and s.role in facet.roles]
        candidates = rank_candidates(self.outlook, facet, facet.ask[document.language])
        nearest = tuple(self._evidence(index) for index, _ in candidates[:1])
        return Finding(
            task=task.name,
            kind=f"no_{facet.kind}",
            title=facet.title[document.language],
            statement=statement,
            confidence=0.6,
            evidence=nearest,
            searched=f"{len(sections)} {SECTIONS[document.language]}: {', '.join(sections[:12])}",
            is_missing=True,
        )
