"""Numbers recomputed: averages and sums in tables, and differences within one sentence."""

import re
from collections.abc import Callable, Sequence

from deepseek.apps.papers.flaws.flaw import Flaw, detector
from deepseek.apps.papers.flaws.grid import Entry, Grid, Row
from deepseek.apps.papers.flaws.numbers import numbers_in
from deepseek.apps.papers.flaws.paper import CLAIMING, Line, PaperView

AVERAGE = re.compile(r"\b(avg|average|mean)\b\.?|平均", re.IGNORECASE)
TOTAL = re.compile(r"\b(total|sum)\b|合计|总计", re.IGNORECASE)
FROM_TO = re.compile(
    r"\bfrom (?P<a>\d+(?:\.\d+)?) ?%? (?:\w+ )?to (?P<b>\d+(?:\.\d+)?) ?%?"
    r"|从 ?(?P<c>\d+(?:\.\d+)?) ?%?(?:提高|提升|下降|降低|增加)?到 ?(?P<d>\d+(?:\.\d+)?)",
    re.IGNORECASE,
)
CHANGE = re.compile(
    r"\bby (?:an? )?(?:(?:absolute|relative) )?(?P<by>\d+(?:\.\d+)?)(?= ?(?:%|points?\b|percent))"
    r"|\b(?:improvement|gain|increase|decrease|reduction|drop) of (?P<of>\d+(?:\.\d+)?)"
    r"(?= ?(?:%|points?\b|percent))",
    re.IGNORECASE,
)
MIN_RIGHT = 2  # rows whose average is right before one that is not is believed to be wrong


@detector("table_arithmetic")
def table_arithmetic(view: PaperView) -> list[Flaw]:
    """An average or total of a row that its other entries do not give, while other rows' do."""
    found = []
    for grid in view.grids:
        for name, pattern, compute in (
            ("average", AVERAGE, lambda v: sum(v) / len(v)),
            ("total", TOTAL, sum),
        ):
            found += _wrong_rows(grid, name, pattern, compute)
    return found


def _wrong_rows(
    grid: Grid,
    name: str,
    pattern: "re.Pattern[str]",
    compute: "Callable[[Sequence[float]], float]",
) -> list[Flaw]:
    right, wrong = 0, []
    for row in grid.rows:
        marked = [e for e in row.entries if pattern.search(grid.column_header(e, row.width))]
        if len(marked) != 1 or len(row.entries) < 3:
            continue
        entry = marked[0]
        values = [e.number.value for e in row.entries if e is not entry]
        expected = compute(values)
        unit = 10.0**-entry.number.decimals
        slack = unit if name == "average" else unit * len(values) / 2 + 1e-9
        if abs(expected - entry.number.value) <= slack:
            right += 1
        elif abs(expected - entry.number.value) > 2 * unit:
            wrong.append((row, entry, expected))
    if right < MIN_RIGHT or len(wrong) > right / 2:
        return []
    return [_flaw(grid, name, *case, right) for case in wrong]


def _flaw(grid: Grid, name: str, row: Row, entry: Entry, expected: float, right: int) -> Flaw:
    decimals = entry.number.decimals
    return Flaw(
        kind="arithmetic",
        severity="major",
        statement=f'Is the {name} of "{row.label[:50]}" in {grid.name} right? It is given as '
        f"{entry.number.text}; the row's other entries give {expected:.{decimals}f}. "
        f"In {right} other rows the {name} agrees.",
        confidence=0.8,
        evidence=((row.span,),),
        is_certain=True,
    )


@detector("sentence_arithmetic")
def sentence_arithmetic(view: PaperView) -> list[Flaw]:
    """ "From A to B, by C": C is neither the difference nor the ratio."""
    found = []
    for line in view.prose:
        pairs, changes = list(FROM_TO.finditer(line.text)), list(CHANGE.finditer(line.text))
        if line.role in CLAIMING and len(pairs) == 1 and len(changes) == 1:
            flaw = _recomputed(line, pairs[0], changes[0])
            if flaw is not None:
                found.append(flaw)
    return found


def _recomputed(line: Line, pair: "re.Match[str]", change: "re.Match[str]") -> Flaw | None:
    a, b = float(pair["a"] or pair["c"]), float(pair["b"] or pair["d"])
    written = next(numbers_in(change["by"] or change["of"]))
    if a <= 0 or (abs(change.start() - pair.end()) > 80 and abs(pair.start() - change.end()) > 80):
        return None
    difference, relative = abs(b - a), 100 * abs(b - a) / a
    error = 100 * abs(b - a) / (100 - a) if a < 100 else relative  # share of the error removed
    unit = 10.0**-written.decimals
    possible = (difference, 100 * difference, relative, 100 * abs(b - a) / max(b, 1e-9), error)
    if any(abs(value - written.value) <= 1.01 * unit for value in possible):
        return None
    return Flaw(
        kind="arithmetic",
        severity="major",
        statement=f"From {a:g} to {b:g} is a change of {difference:.4g}, or {relative:.3g} %. "
        f"Why does the sentence say {written.text}?",
        confidence=0.7,
        evidence=(line.sentence.spans,),
        is_certain=True,
    )
