"""Numbers that the text gives as results and that no table, figure or caption contains."""

import math
import re
from itertools import pairwise

from deepseek.apps.documents.document import Span
from deepseek.apps.papers.flaws.flaw import Flaw, detector
from deepseek.apps.papers.flaws.grid import Entry, Grid, Row
from deepseek.apps.papers.flaws.mentions import ELSEWHERE, OTHERS, OURS, Result, Support
from deepseek.apps.papers.flaws.paper import PaperView
from deepseek.apps.papers.flaws.suspicion import Candidate, rated

SPLIT = re.compile(
    r"\b(dev|development|valid\w*|ensemble|train\w*|subset|oracle|estimate|about|around|almost"
    r"|approximately|averag\w+|over|nearly|up to)\b",
    re.IGNORECASE,
)
CONDITION = re.compile(
    r"\b(if|when|would|could|extrapolat|adjust|re-?implement|for comparison|reported|replac|human"
    r"|proportion|cases|agree)\w*\b",
    re.IGNORECASE,
)


@detector("text_table_mismatch")
def text_table_mismatch(view: PaperView) -> list[Flaw]:
    """A result in the text that stands in no table, in a paper whose others do."""
    return rated(candidates(view))


def candidates(view: PaperView) -> list[Candidate]:
    """One for each result in the text that stands nowhere else."""
    support = Support(view)
    found = []
    for i, (result, is_matched) in enumerate(zip(support.results, support.matched, strict=True)):
        if not is_matched:
            found.append(_candidate(support, i, result))
    return found


def _candidate(support: Support, index: int, result: Result) -> Candidate:
    named = support.tables_named(result.text)
    close = nearest(support, result, named)
    others = [m for i, m in enumerate(support.matched) if i != index]
    siblings = [
        m
        for i, (r, m) in enumerate(zip(support.results, support.matched, strict=True))
        if i != index and r.mention.line is result.mention.line
    ]
    features = {
        "rate": (sum(others) + 1) / (len(others) + 2),
        "log_matched": math.log1p(sum(others)),
        "log_missed": math.log1p(len(others) - sum(others)),
        "siblings": float(any(siblings)),
        "lonely_siblings": float(bool(siblings) and not any(siblings)),
        "table": float(bool(named)),
        "computed": float(is_computed(support, result)),
        "cells": math.log1p(len(support.view.entries)),
        **_wording(support, result),
        **_closeness(support, result, close, named),
    }
    return Candidate("number", features, _flaw(result, close))


def _wording(support: Support, result: Result) -> dict[str, float]:
    """How the sentence puts the number."""
    number, text, role = result.number, result.text, result.mention.line.role
    usual = [r.number.decimals for r in support.results]
    again = (r.number.value for r in support.results if r is not result)
    return {
        "metric": float(result.has_metric),
        "ours": float(bool(OURS.search(text))),
        "others": float(bool(OTHERS.search(text))),
        "summary": float(role in ("abstract", "conclusion", "introduction")),
        "ablation": float(role in ("results", "ablation")),
        "split": float(bool(SPLIT.search(text))),
        "elsewhere": float(bool(ELSEWHERE.search(text))),
        "condition": float(bool(CONDITION.search(text))),
        "percent": float(number.is_percent),
        "small": float(number.value < 5 and number.decimals < 3),
        "decimals": float(usual.count(number.decimals) > 0.6 * len(usual)),
        "repeated": float(number.value in again),
    }


def _flaw(result: Result, close: tuple[Grid, Row, Entry] | None) -> Flaw:
    number, text = result.number, result.text
    evidence: list[tuple[Span, ...]] = [result.mention.line.sentence.spans]
    start = text.rfind(" ", 0, max(0, number.start - 60)) + 1
    end = text.find(" ", number.end + 25)
    shown = f'"{text[start : end if end >= 0 else None].strip()}"'
    statement = f"The text gives {number.text} ({shown}), but no table or figure has this number."
    if close is not None:
        grid, row, entry = close
        evidence.append((row.span,))
        label = f' in the row "{row.label[:50]}"' if row.label else ""
        statement += f" The closest entry is {entry.number.text} of {grid.name}{label}."
        statement += " Which is right?"
    return Flaw(
        kind="text_table_mismatch",
        severity="major",
        statement=statement,
        confidence=0.0,
        evidence=tuple(evidence),
        question=f"Is {number.text} in the first quote a result of this paper that its tables "
        "should contain?",
    )


def _closeness(
    support: Support,
    result: Result,
    close: tuple[Grid, Row, Entry] | None,
    named: list[Grid],
) -> dict[str, float]:
    """What the closest entry says about the number."""
    if close is None:
        return {}
    grid, row, entry = close
    value = entry.number.value
    peers = [peer.number.value for _, peer in grid.peers(row, entry.column)]
    cited = any(m.number.value == value and m.number.decimals for m in support.view.mentions)
    return {
        "close": 1.0,
        "misprint": float(is_misprint(result.number.text, entry.number.text)),
        "close_own": float(support.view.is_own(row.label)),
        "close_best": float(bool(peers) and (value >= max(peers) or value <= min(peers))),
        "close_cited": float(cited),
        "close_named": float(grid in named),
        "close_label": float(bool(_words(row.label) & _words(result.text))),
        "close_gap": min(abs(value - result.number.value) / max(result.number.value, 1e-9), 1.0),
    }


def _words(text: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Za-z][\w+-]{2,}", text)}


def nearest(support: Support, result: Result, named: list[Grid]) -> tuple[Grid, Row, Entry] | None:
    """The table entry that the number most likely means: same look, close or one slip away."""
    number = result.number
    best: tuple[float, tuple[Grid, Row, Entry]] | None = None
    words = _words(result.text)
    for grid, row, entry in support.view.entries:
        if entry.number.decimals != number.decimals:
            continue
        distance = abs(entry.number.value - number.value) / max(abs(number.value), 1e-9)
        slip = is_misprint(number.text, entry.number.text)
        if distance > 0.1 and not slip:
            continue
        cost = min(distance, 0.1) - 0.03 * slip - 0.08 * bool(_words(row.label) & words)
        cost -= 0.04 * (grid in named) + 0.03 * support.view.is_own(row.label)
        if best is None or cost < best[0]:
            best = cost, (grid, row, entry)
    return best[1] if best else None


def is_misprint(a: str, b: str) -> bool:
    """Whether two numbers of one length differ in one digit or in two neighbours swapped."""
    if len(a) != len(b) or a == b or "." not in a:
        return False
    different = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    if len(different) == 1:
        return a[different[0]].isdigit() and b[different[0]].isdigit()
    digits = [i for i, c in enumerate(a) if c.isdigit()]
    return len(different) == 2 and any(
        [i, j] == different and a[i] == b[j] and a[j] == b[i] for i, j in pairwise(digits)
    )


def is_computed(support: Support, result: Result) -> bool:
    """Whether the number is the average of a row or the difference of two numbers nearby."""
    number = result.number
    near = [m.number.value for m in support.view.mentions if m.line is result.mention.line]
    if any(number.equals(abs(a - b)) for a in near for b in near if a != b):
        return True
    for grid in support.view.grids:
        for row in grid.rows:
            values = [e.number.value for e in row.entries]
            if len(values) > 1 and number.equals(sum(values) / len(values)):
                return True
    return False
