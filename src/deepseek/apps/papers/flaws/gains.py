"""Gains that the text claims and that no two entries of a table differ by."""

import math
import re
from functools import cache, cached_property

from deepseek.apps.documents.document import Span
from deepseek.apps.papers.flaws.flaw import Flaw, detector
from deepseek.apps.papers.flaws.grid import Entry, Grid, Row
from deepseek.apps.papers.flaws.mentions import ELSEWHERE, OTHERS, OURS, Support
from deepseek.apps.papers.flaws.metrics import metrics_in
from deepseek.apps.papers.flaws.numbers import SETTING, Number
from deepseek.apps.papers.flaws.paper import CLAIMING, Line, Mention, PaperView
from deepseek.apps.papers.flaws.suspicion import Candidate, rated
from deepseek.apps.papers.flaws.sweeps import MODEST

RELATIVE = re.compile(r"\brelative|error reduction|\breduc|相对", re.IGNORECASE)
AVERAGE = re.compile(r"\baverage|\bmean\b|平均", re.IGNORECASE)
VAGUE = re.compile(r"about|around|roughly|approx|nearly|almost|over|more than|at least|up to", re.I)
BETTER = re.compile(
    r"\b(outperform|surpass|exceed|beat)\w*|\b(better|worse|higher|superior"
    r"|best) (\w+ ){0,3}(than|to|of)\b"
    r"|\bperforms? (the )?best\b|优于|超过",
    re.IGNORECASE,
)
AVERAGE = re.compile(r"\baverage|\bmean\b|平均", re.IGNORECASE)
VAGUE = re.compile(r"about|around|roughly|approx|nearly|almost|over|more than|at least|up to", re.I)
BETTER = re.compile(
    r"\b(outperform|surpass|exceed|beat)\w*|\b(better|worse|higher|superior"
    r"|best) (\w+ ){0,3}(than|to|of)\b"
    r"|\bperforms? (the )?best\b|优于|超过",
    re.IGNORECASE,
)
VAGUE = re.compile(r"about|around|roughly|approx|nearly|almost|over|more than|at least|up to", re.I)
BETTER = re.compile(
    r"\b(outperform|surpass|exceed|beat)\w*|\b(better|worse|higher|superior"
    r"|best) (\w+ ){0,3}(than|to|of)\b"
    r"|\bperforms? (the )?best\b|优于|超过",
    re.IGNORECASE,
)

COMMON = frozenset("the and with our model models ours all single full test dev data set".split())


@detector("unsupported_gains")
def unsupported_gains(view: PaperView) -> list[Flaw]:
    """Gains stated in the text that no two entries of a table differ by."""
    return rated(gains(view))


def gains(view: PaperView) -> list[Candidate]:
    """One for each gain that the text claims."""
    support = Support(view)
    claimed = [m for m in view.mentions if m.use == "gain" and _is_claim(m)]
    differences = Differences(view)
    supported = [bool(differences.exact(m.number)) for m in claimed]
    return [_gain(support, differences, claimed, supported, index) for index in range(len(claimed))]


def _is_claim(mention: Mention) -> bool:
    line, number = mention.line, mention.number
    near = line.text[max(0, number.start - 45) : number.end + 30]
    if line.role not in CLAIMING or not 0.04 < number.value < 100:
        return False
    return not (SETTING.search(near) or re.search(r"kappa|p ?[<≤]|faster|speed|memory|time", near))


def _gain(
    support: Support,
    differences: "Differences",
    claimed: list[Mention],
    supported: list[bool],
    index: int,
) -> Candidate:
    mention = claimed[index]
    others = [s for i, s in enumerate(supported) if i != index]
    again = [m for m in claimed if m.line is not mention.line]
    near = [
        m.number.value for m in support.view.mentions if m.line is mention.line and m is not mention
    ]
    features = {
        **_support(support, differences, mention, near),
        **_wording(support, mention),
        **differences.ratios(mention.number, mention.line),
        **_here(mention.number, near),
        "repeated": float(any(m.number.value == mention.number.value for m in again)),
        "share": (sum(others) + 1) / (len(others) + 2),
    }
    return Candidate("gain", features, _flaw(differences, mention))


def _support(
    support: Support, differences: "Differences", mention: Mention, near: list[float]
) -> dict[str, float]:
    """Which results differ by the gain."""
    number = mention.number
    exact = differences.exact(number)
    largest = differences.largest_own
    same_line = any(number.equals(abs(a - b)) for a in near for b in near)
    return {
        "none": float(not exact),
        "none_own": float(not any(d[3] for d in exact)),
        "none_at_all": float(not exact and not differences.relative(number)),
        "log_exact": math.log1p(len(exact)),
        "pool": float(support.in_pool(number)),
        "same_line": float(same_line),
        "above": float(largest > 0 and number.value > largest),
        "far_above": float(largest > 0 and number.value > 2 * largest),
        "cells": math.log1p(len(support.view.entries)),
    }


def _wording(support: Support, mention: Mention) -> dict[str, float]:
    """How the sentence puts the gain."""
    number, line = mention.number, mention.line
    before = line.text[max(0, number.start - 20) : number.start]
    return {
        "relative": float(bool(RELATIVE.search(line.text))),
        "average": float(bool(AVERAGE.search(line.text))),
        "vague": float(bool(VAGUE.search(before))),
        "others": float(bool(OTHERS.search(line.text))),
        "ours": float(bool(OURS.search(line.text))),
        "metric": float(any(True for _ in metrics_in(line.text))),
        "table": float(bool(support.tables_named(line.text))),
        "elsewhere": float(bool(ELSEWHERE.search(line.text))),
        "summary": float(line.role in ("abstract", "introduction", "conclusion")),
        "log_value": math.log(number.value),
        "large": float(number.value >= 10),
        "integer": float(number.decimals == 0),
        "slight": float(bool(MODEST.search(line.text))),
    }


def _flaw(differences: "Differences", mention: Mention) -> Flaw:
    number, line = mention.number, mention.line
    exact = differences.exact(number)
    largest = differences.largest_own
    shown = f'"{line.text[max(0, number.start - 70) : number.end + 25].strip()}"'
    statement = (
        f"Is the gain of {number.text} right ({shown})? Only {_described(exact[0])} differ by it."
        if exact
        else f"Which two results differ by {number.text}? The text claims it ({shown}); no two "
        "entries of one table column do."
    )
    if largest:
        statement += f" The largest lead of its rows in the tables is {largest:g}."
    return Flaw(
        kind="arithmetic",
        severity="major",
        statement=statement,
        confidence=0.0,
        evidence=(line.sentence.spans, *((_spans(exact[0]),) if exact else ())),
        question=f"Does the sentence claim a gain of {number.text} that the paper's own results "
        "do not show?",
    )


def _here(number: Number, near: list[float]) -> dict[str, float]:
    """Whether two numbers of the same sentence should differ by the gain, and do not."""
    alike = [
        abs(a - b)
        for i, a in enumerate(near)
        for b in near[i + 1 :]
        if min(a, b) > 0 and max(a, b) < 1.6 * min(a, b) and max(a, b) > 2 * number.value
    ]
    agrees = any(number.equals(d) or number.equals(100 * d) for d in alike)
    return {"pair_here": float(bool(alike)), "pair_differs": float(bool(alike) and not agrees)}


Difference = tuple[Grid, tuple[Row, Entry], tuple[Row, Entry], bool]
"""Two entries of one column, and whether just one of them is the paper's own."""


def _described(difference: Difference) -> str:
    grid, (row, entry), (other, other_entry), _ = difference
    return (
        f'{entry.number.text} ("{row.label[:30]}") and {other_entry.number.text} '
        f'("{other.label[:30]}") of {grid.name}'
    )


def _spans(difference: Difference) -> tuple[Span, ...]:
    return (difference[1][0].span, difference[2][0].span)


class Differences:
    """Differences of two entries of one column, over all tables."""

    def __init__(self, view: PaperView) -> None:
        self.view = view
        self.is_own = cache(view.is_own)
        self._cache: dict[str, set[str]] = {}
        self.pairs: list[tuple[float, float, Difference]] = []
        for grid in view.grids:
            for i, row in enumerate(grid.rows):
                for other in grid.rows[i + 1 :]:
                    if other.width == row.width:
                        self._add(grid, row, other)

    def _add(self, grid: Grid, row: Row, other: Row) -> None:
        for entry in row.entries:
            peer = other.at(entry.column)
            if peer and (entry.number.decimals or peer.number.decimals):
                a, b = entry.number.value, peer.number.value
                is_own = self.is_own(row.label) != self.is_own(other.label)
                difference = (grid, (row, entry), (other, peer), is_own)
                if a != b:
                    self.pairs.append((abs(a - b), abs(a - b) / max(min(a, b), 1e-9), difference))

    def exact(self, number: Number) -> list[Difference]:
        """Pairs that differ by the number, in the table's unit or times 100."""
        return [d for diff, _, d in self.pairs if number.equals(diff) or number.equals(100 * diff)]

    def relative(self, number: Number) -> list[Difference]:
        """Pairs that differ by so many percent of the smaller."""
        return [d for _, share, d in self.pairs if number.equals(100 * share)]

    def ratios(self, number: Number, line: Line) -> dict[str, float]:
        """How the gain compares with the largest differences that the sentence can mean."""
        words = {w.lower() for w in re.findall(r"[A-Za-z][\w+-]{2,}", line.text)}
        named, own, every = [], [], []
        for diff, _, difference in self.pairs:
            a, b = difference[1], difference[2]
            scale = 100.0 if max(a[1].number.value, b[1].number.value) <= 1 else 1.0
            if max(a[1].number.value, b[1].number.value) > 100:
                continue
            every.append(scale * diff)
            if difference[3]:
                own.append(scale * diff)
            said = [bool(self._names(x[0].label) & words) for x in (a, b)]
            if all(said) or (any(said) and difference[3]):
                named.append(scale * diff)
        found = {}
        for name, values in (("named", named), ("own", own), ("every", every)):
            if values:
                found[f"has_{name}"] = 1.0
                found[f"over_{name}"] = max(-2.0, min(2.0, math.log(number.value / max(values))))
                smaller = sum(v < number.value for v in values) / len(values)
                found[f"rank_{name}"] = smaller
        return found

    def _names(self, label: str) -> set[str]:
        if label not in self._cache:
            words = (w.lower() for w in re.findall(r"[A-Za-z][\w+-]{2,}", label))
            self._cache[label] = {w for w in words if w not in COMMON}
        return self._cache[label]

    @cached_property
    def largest_own(self) -> float:
        """The largest lead of an own row over another system's row, in percent points."""
        leads = [
            (abs(d[1][1].number.value - d[2][1].number.value), d[1][1].number.value)
            for _, _, d in self.pairs
            if d[3]
        ]
        leads = [(100 * a, b) if b <= 1 else (a, b) for a, b in leads if b <= 100]
        return max((a for a, _ in leads), default=0.0)
