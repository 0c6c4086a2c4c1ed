"""Sweeping comparisons that no test and no table supports."""

import math
import re

from deepseek.apps.documents.document import Span
from deepseek.apps.papers.flaws.flaw import Flaw, detector
from deepseek.apps.papers.flaws.grid import Entry, Grid, Row
from deepseek.apps.papers.flaws.mentions import OTHERS, OURS, Support
from deepseek.apps.papers.flaws.paper import CLAIMING, Line, PaperView
from deepseek.apps.papers.flaws.suspicion import Candidate, rated
from deepseek.apps.papers.flaws.variance import has_spread

BETTER = re.compile(
    r"\b(outperform|surpass|exceed|beat)\w*|\b(better|worse|higher|superior"
    r"|best) (\w+ ){0,3}(than|to|of)\b"
    r"|\bperforms? (the )?best\b|优于|超过",
    re.IGNORECASE,
)
SURE = re.compile(
    r"\b(significant(ly)?|substantial(ly)?|dramatic(ally)?|consistent(ly)?|clearly|always|far)\b"
    r"|\b(large|wide|huge) margin|显著|一致|总是"
)
SWEEPING = re.compile(
    r"\b(all|every|any|always)\b( of)?( the| other| existing| previous| prior| these| our| their)*"
    r"( \w+){0,2}|\bconsistently\b|\bproves?\b|所有|一致|总是",
    re.IGNORECASE,
)
ALL_RIVALS = re.compile(
    r"\b(outperform|surpass|exceed|beat)\w* (all|every|any)\b|\bthan (all|every|any)\b"
    r"|\bevery one of\b|优于所有|超过所有",
    re.IGNORECASE,
)
MODEST = re.compile(
    r"\b(comparable|competitive|similar|slight(ly)?|marginal(ly)?|on par|close to)\b|相当|略",
    re.IGNORECASE,
)

ADJACENT = re.compile(
    r"(significant|substantial|consistent|dramatic|clear)\w* (\w+ ){0,2}"
    r"(outperform|surpass|exceed|beat|better)"
)
CONCEDES = re.compile(r"although|despite|while|however|but|even though|虽然|但", re.IGNORECASE)


@detector("overclaim")
def overclaims(view: PaperView) -> list[Flaw]:
    """Sweeping comparisons without a test, or against the table."""
    return rated(sweeps(view))


def sweeps(view: PaperView) -> list[Candidate]:
    """One for each sentence that sets the method above others in strong words."""
    has_test = any(
        re.search(r"significan|\bp ?[<≤]|t-test|bootstrap|wilcoxon|mcnemar", line.text, re.I)
        for line in view.lines
        if has_spread(line.text)
    )
    modest = sum(1 for x in view.matching(MODEST.pattern, view.prose) if x.role in CLAIMING)
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
    beaten = _beaten(Support(view), line)
    both = bool(SURE.search(text)) and bool(ALL_RIVALS.search(text))
    features = {
        "sure": float(bool(SURE.search(text))),
        "all": float(bool(ALL_RIVALS.search(text))),
        "both": float(both),
        "adjacent": float(bool(ADJACENT.search(text))),
        "no_test": float(not has_test),
        "both_no_test": float(both and not has_test),
        "modest_here": float(bool(MODEST.search(text))),
        "concedes": float(bool(CONCEDES.search(text))),
        "modest_elsewhere": math.log1p(modest),
        "strong": math.log1p(strong),
        "beaten": float(beaten is not None),
        "ours": float(bool(OURS.search(text) or any(n in text.lower() for n in view.own_names))),
        "cites": float(bool(OTHERS.search(text))),
        "summary": float(line.role in ("abstract", "introduction", "conclusion")),
        "numbers": float(any(c.isdigit() for c in text)),
        "p": float(bool(re.search(r"\bp ?[<≤=]|p-value", text))),
    }
    return Candidate("sweep", features, _flaw(line, beaten, has_test, both))


Beaten = tuple[Grid, Row, Entry, Row, Entry]
"""A table, an own row and its entry, and a row of another system with a higher one."""


def _flaw(line: Line, beaten: Beaten | None, has_test: bool, is_strong: bool) -> Flaw:
    text = line.text
    word = ALL_RIVALS.search(text) or SURE.search(text) or BETTER.search(text)
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
    return Flaw(
        kind="overclaim",
        severity="major" if beaten or is_strong else "minor",
        statement=statement,
        confidence=0.0,
        evidence=tuple(evidence),
        question="Is the comparison in the first sentence stronger than the evidence supports?",
    )


def _beaten(support: Support, line: Line) -> Beaten | None:
    """An own row of a table that the sentence refers to with another row above it."""
    for grid in support.tables_named(line.text):
        own = [r for r in grid.rows if support.view.is_own(r.label)]
        for row in own:
            for entry in row.entries:
                for other, peer in grid.peers(row, entry.column):
                    if other not in own and peer.number.value > entry.number.value and other.label:
                        return grid, row, entry, other, peer
    return None
