"""Claims against the tables: gains that no two results differ by, and sweeping words."""

import math
import re
from functools import cache

from deepseek.apps.documents.document import Span
from deepseek.apps.papers.flaws.flaw import Flaw, detector
from deepseek.apps.papers.flaws.grid import Entry, Grid, Row
from deepseek.apps.papers.flaws.mentions import ELSEWHERE, OTHERS, OURS, Support
from deepseek.apps.papers.flaws.metrics import metrics_in
from deepseek.apps.papers.flaws.numbers import SETTING, Number
from deepseek.apps.papers.flaws.paper import CLAIMING, Line, Mention, PaperView
from deepseek.apps.papers.flaws.suspicion import Candidate, rated
from deepseek.apps.papers.flaws.variance import SPREAD

RELATIVE = re.compile(r"\brelative|error reduction|\breduc|相对", re.IGNORECASE)
AVERAGE = re.compile(r"\baverage|\bmean\b|平均", re.IGNORECASE)
VAGUE = re.compile(r"about|around|roughly|approx|nearly|almost|over|more than|at least|up to", re.I)
BETTER = re.compile(
    r"\b(outperform|surpass|exceed|beat)\w*|\b(better|worse|higher|superior|best) (\w+ ){0,3}(than|to|of)\b"
    r"|\bperforms? (the )?best\b|优于|超过",
    re.IGNORECASE,
)
SURE = re.compile(r"\bsignificant(ly)?\b|\bsubstantially\b|\bdramatically\b|\bby a large margin|显著")
SWEEPING = re.compile(
    r"\b(all|every|any|always)\b( of)?( the| other| existing| previous| prior| these| our| their)*"
    r"( \w+){0,2}|\bconsistently\b|\bproves?\b|所有|一致|总是",
    re.IGNORECASE,
)
ALL_RIVALS = re.compile(
    r"\b(outperform|surpass|exceed|beat)\w* (all|every|any)\b|\bthan (all|every|any)\b|优于所有|超过所有",
    re.IGNORECASE,
)
MODEST = re.compile(
    r"\b(comparable|competitive|similar|slight(ly)?|marginal(ly)?|on par|close to)\b|相当|略", re.IGNORECASE
)


@detector("arithmetic_of_gains")
def unsupported_gains(view: PaperView) -> list[Flaw]:
    """Gains stated in the text that no two entries of a table differ by."""
    return rated(gains(view))


@detector("overclaim")
def overclaims(view: PaperView) -> list[Flaw]:
    """Sweeping comparisons without a test, or against the table."""
    return rated(sweeps(view))


def gains(view: PaperView) -> list[Candidate]:
    """One for each gain that the text claims."""
    support = Support(view)
    claimed = [m for m in view.mentions if m.use == "gain" and _is_claim(m)]
    differences = Differences(view)
    supported = [bool(differences.exact(m.number)) for m in claimed]
    return [
        _gain(support, differences, claimed, supported, index) for index in range(len(claimed))
    ]


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
    number, line = mention.number, mention.line
    others = [s for i, s in enumerate(supported) if i != index]
    exact = differences.exact(number)
    own = [d for d in exact if d[3]]
    near = [m.number.value for m in support.view.mentions if m.line is line and m is not mention]
    same_line = any(number.equals(abs(a - b)) for a in near for b in near)
    repeated = sum(
        m.number.value == number.value for m in claimed if m is not mention and m.line is not line
    )
    largest = differences.largest_own
    features = {
        "none": float(not exact),
        "none_own": float(not own),
        "none_at_all": float(not exact and not differences.relative(number)),
        "log_exact": math.log1p(len(exact)),
        "pool": float(support.in_pool(number)),
        "same_line": float(same_line),
        "repeated": float(repeated > 0),
        "relative": float(bool(RELATIVE.search(line.text))),
        "average": float(bool(AVERAGE.search(line.text))),
        "vague": float(bool(VAGUE.search(line.text[max(0, number.start - 20) : number.start]))),
        "others": float(bool(OTHERS.search(line.text))),
        "ours": float(bool(OURS.search(line.text))),
        "metric": float(any(True for _ in metrics_in(line.text))),
        "table": float(bool(support.tables_named(line.text))),
        "elsewhere": float(bool(ELSEWHERE.search(line.text))),
        "summary": float(line.role in ("abstract", "introduction", "conclusion")),
        "log_value": math.log(number.value),
        "large": float(number.value >= 10),
        "integer": float(number.decimals == 0),
        "above": float(largest > 0 and number.value > largest),
        "far_above": float(largest > 0 and number.value > 2 * largest),
        "slight": float(bool(MODEST.search(line.text))),
        "share": (sum(others) + 1) / (len(others) + 2),
        "cells": math.log1p(len(support.view.entries)),
    }
    shown = f'"{line.text[max(0, number.start - 70) : number.end + 25].strip()}"'
    seen = f" The largest lead of its rows in the tables is {largest:g}." if largest else ""
    flaw = Flaw(
        kind="arithmetic",
        severity="major",
        statement=f"Which two results differ by {number.text}? The text claims it ({shown}); no two "
        f"entries of one table column do.{seen}"
        if not exact
        else f"Is the gain of {number.text} right ({shown})? "
        f"Only {_described(exact[0])} differ by it.{seen}",
        confidence=0.0,
        evidence=(line.sentence.spans, *((_spans(exact[0]),) if exact else ())),
        searched=f"differences within the columns of {len(support.view.grids)} tables",
        question=f"Is the difference of {number.text} in this sentence between the paper's method "
        "and another one, so that it can be computed from a table?",
    )
    return Candidate("gain", features, flaw)


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
        return [
            d for diff, _, d in self.pairs if number.equals(diff) or number.equals(100 * diff)
        ]

    def relative(self, number: Number) -> list[Difference]:
        """Pairs that differ by so many percent of the smaller."""
        return [d for _, share, d in self.pairs if number.equals(100 * share)]

    @property
    def largest_own(self) -> float:
        """The largest lead of an own row over another system's row, in percent points."""
        leads = [
            (abs(d[1][1].number.value - d[2][1].number.value), d[1][1].number.value)
            for _, _, d in self.pairs
            if d[3]
        ]
        leads = [(100 * a, b) if b <= 1 else (a, b) for a, b in leads if b <= 100]
        return max((a for a, _ in leads), default=0.0)


def sweeps(view: PaperView) -> list[Candidate]:
    """One for each sentence that sets the method above others in strong words."""
    has_test = any(
        re.search(r"significan|\bp ?[<≤]|t-test|bootstrap|wilcoxon|mcnemar", line.text, re.I)
        for line in view.matching(SPREAD)
    )
    modest = sum(
        1 for x in view.matching(MODEST.pattern, view.prose) if x.role in CLAIMING
    )
    strong = [
        line
        for line in view.prose
        if line.role in CLAIMING
        and BETTER.search(line.text)
        and (SURE.search(line.text) or ALL_RIVALS.search(line.text))
    ]
    return [_sweep(view, line, has_test, modest, len(strong)) for line in strong]


def _sweep(view: PaperView, line: Line, has_test: bool, modest: int, strong: int) -> Candidate:
    text = line.text
    support = Support(view)
    beaten = _beaten(support, line)
    both = bool(SURE.search(text)) and bool(ALL_RIVALS.search(text))
    features = {
        "sure": float(bool(SURE.search(text))),
        "all": float(bool(ALL_RIVALS.search(text))),
        "both": float(both),
        "adjacent": float(
            bool(re.search(r"significant\w* (\w+ ){0,2}(outperform|surpass|exceed|beat|better)", text))
        ),
        "no_test": float(not has_test),
        "both_no_test": float(both and not has_test),
        "modest_here": float(bool(MODEST.search(text))),
        "concedes": float(bool(re.search(r"although|despite|while|however|but|even though", text, re.I))),
        "modest_elsewhere": math.log1p(modest),
        "strong": math.log1p(strong),
        "beaten": float(beaten is not None),
        "ours": float(bool(OURS.search(text) or any(n in text.lower() for n in view.own_names))),
        "cites": float(bool(OTHERS.search(text))),
        "cited_all": float(bool(re.search(r"\b(all|any|every)\b[^.]{0,40}(et al|\[\d|\(\w+, \d{4})", text))),
        "names_one": float(bool(re.search(r"\ball (of )?(the )?[A-Z]\w*|\ball of the \w+ (model|system)\b", text))),
        "summary": float(line.role in ("abstract", "introduction", "conclusion")),
        "numbers": float(any(c.isdigit() for c in text)),
        "p": float(bool(re.search(r"\bp ?[<≤=]|p-value", text))),
    }
    word = (ALL_RIVALS.search(text) or SURE.search(text) or BETTER.search(text))
    said = f'"{word.group()}"' if word else "it"
    evidence: list[tuple[Span, ...]] = [line.sentence.spans]
    statement = f"What supports {said}?"
    if not has_test:
        statement += " The paper states no significance test."
    if beaten is not None:
        grid, row, entry, best_row, best = beaten
        evidence += [(row.span,), (best_row.span,)]
        statement += (
            f' In {grid.name}, "{best_row.label[:40]}" has {best.number.text} where '
            f'"{row.label[:40]}" has {entry.number.text}.'
        )
    flaw = Flaw(
        kind="overclaim",
        severity="major" if beaten or both else "minor",
        statement=statement,
        confidence=0.0,
        evidence=tuple(evidence),
        searched="significance, p-value, names of tests; tables of the own rows",
        question="Is the comparison in the first sentence stronger than the evidence supports?",
    )
    return Candidate("sweep", features, flaw)


def _beaten(support: Support, line: Line) -> tuple[Grid, Row, Entry, Row, Entry] | None:
    """An own row of a table that the sentence refers to with another row above it."""
    for grid in support.tables_named(line.text):
        own = [r for r in grid.rows if support.view.is_own(r.label)]
        for row in own:
            for entry in row.entries:
                for other, peer in grid.peers(row, entry.column):
                    if other not in own and peer.number.value > entry.number.value and other.label:
                        return grid, row, entry, other, peer
    return None
