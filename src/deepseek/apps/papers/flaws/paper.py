"""A document as the detectors see it: sentences with roles, tables as grids, own names."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from deepseek.apps.documents.document import Document, Section, SectionRole, Sentence, Span
from deepseek.apps.papers.flaws.grid import Entry, Grid, Row, grids, is_tabular
from deepseek.apps.papers.flaws.numbers import Number, Use, numbers_in, use_of

OWN = re.compile(
    r"\b(ours?|this (work|paper)|proposed|full (model|system))\b|本文|我们", re.IGNORECASE
)
EVALUATION: tuple[SectionRole, ...] = ("experiments", "results", "ablation")
CLAIMING: tuple[SectionRole, ...] = ("abstract", "introduction", "conclusion", *EVALUATION)
ACRONYM = re.compile(r"\b(?=\w*[A-Z]\w*[A-Z])[A-Za-z][\w+-]{1,24}\b|\b[A-Z]{2,}[\w+-]*")
NAMING = re.compile(
    r"\b(?:we|this paper|this work)\b[^.]{0,60}?"
    r"\b(?:propose|present|introduce|develop|describe|call|name|term|dub|denote|refer)"
    r"|\b(?:called|named|dubbed|termed|namely|our)\b|提出|称为",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence, its text and its place."""

    sentence: Sentence
    text: str
    role: SectionRole
    is_prose: bool
    """No caption, footnote or stray table row."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A number in a sentence."""

    number: Number
    """Its offsets are those of the line's text."""
    line: Line
    use: Use


class PaperView:
    """Everything the detectors share, computed once and only when needed."""

    def __init__(self, document: Document) -> None:
        self.document = document

    @cached_property
    def lines(self) -> list[Line]:
        """All sentences outside the references and the front matter."""
        document = self.document
        stray = {i for i, b in enumerate(document.blocks) if is_tabular(document, b)}
        found = []
        for sentence in document.sentences:
            role = document.section_of(sentence).role
            kind = document.kind_of(sentence)
            if role in ("references", "front") or kind == "reference":
                continue
            is_prose = kind in ("paragraph", "list") and sentence.block not in stray
            found.append(Line(sentence, document.text_of(sentence), role, is_prose))
        return found

    @cached_property
    def prose(self) -> list[Line]:
        """Sentences of running text."""
        return [line for line in self.lines if line.is_prose]

    @cached_property
    def grids(self) -> list[Grid]:
        """The tables outside the references."""
        return [grid for grid in grids(self.document) if any(row.entries for row in grid.rows)]

    @cached_property
    def entries(self) -> list[tuple[Grid, Row, Entry]]:
        """Every number of every table."""
        return [(g, row, entry) for g in self.grids for row in g.rows for entry in row.entries]

    @cached_property
    def mentions(self) -> list[Mention]:
        """Every number in running text."""
        return [
            Mention(number, line, use_of(line.text, number))
            for line in self.prose
            for number in numbers_in(line.text)
        ]

    @cached_property
    def own_names(self) -> frozenset[str]:
        """Names that the authors seem to give to what they propose, in lower case."""
        votes: Counter[str] = Counter()
        title = self.document.title
        for name in ACRONYM.findall(title.partition(":")[0]) if ":" in title else ():
            votes[name.lower()] += 3
        labels = Counter(
            name.lower() for _, row, _ in self.entries for name in ACRONYM.findall(row.label)
        )
        for line in self.prose:
            if line.role in ("related", "other") or not (match := NAMING.search(line.text)):
                continue
            for name in ACRONYM.finditer(line.text, match.start()):
                cited = re.match(r"\s*(\(\w[^)]*\d{4}|\[\d)", line.text[name.end() :])
                if not cited and name.start() - match.end() < 120:
                    votes[name.group().lower()] += 2 if line.role == "abstract" else 1
        return frozenset(n for n, count in votes.items() if count >= 3 and (labels[n] or count > 5))

    def is_own(self, label: str) -> bool:
        """Whether a table row's label names the paper's own system."""
        if OWN.search(label):
            return True
        if re.search(r"\b(19|20)\d\d\b|\bet al|\[\d+\]", label):
            return False
        return any(name.lower() in self.own_names for name in ACRONYM.findall(label))

    def section(self, line: Line) -> Section:
        """The section of a line."""
        return self.document.section_of(line.sentence)

    def matching(
        self, patterns: Iterable[str] | str, lines: list[Line] | None = None
    ) -> Iterator[Line]:
        """Lines in which a pattern is found."""
        joined = patterns if isinstance(patterns, str) else "|".join(patterns)
        pattern = re.compile(joined, re.IGNORECASE)
        return (
            line for line in (self.lines if lines is None else lines) if pattern.search(line.text)
        )

    def spans(self, line: Line, start: int, end: int) -> tuple[Span, ...]:
        """Where a piece of a line's text stands in the document."""
        found, offset = [], 0
        for span in line.sentence.spans:
            length = span.end - span.start
            low, high = max(start, offset), min(end, offset + length)
            if low < high:
                found.append(Span(span.page, span.start + low - offset, span.start + high - offset))
            offset += length + 1  # the space between two spans
        return tuple(found)
