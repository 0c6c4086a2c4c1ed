"""A metric that a claim names and the tables and the rest of the evaluation do not."""

import math
import re
from collections import Counter

from deepseek.apps.papers.flaws.flaw import Flaw, detector
from deepseek.apps.papers.flaws.grid import Entry, Grid, Row
from deepseek.apps.papers.flaws.mentions import ELSEWHERE, OTHERS, OURS, Support
from deepseek.apps.papers.flaws.metrics import family, metrics_in
from deepseek.apps.papers.flaws.paper import CLAIMING, EVALUATION, Line, PaperView
from deepseek.apps.papers.flaws.suspicion import Candidate, rated

NO_CLAIM = frozenset({"correlation", "MOS"})  # of raters and studies beside the evaluation
DEFINES = re.compile(r"\b(metric|measure|evaluat|report|score)", re.IGNORECASE)


@detector("metric_mismatch")
def metric_mismatch(view: PaperView) -> list[Flaw]:
    """A result under a metric that stands nowhere else, or that its table does not have."""
    return rated(candidates(view))


class Census:
    """Where a paper names which metric."""

    def __init__(self, view: PaperView) -> None:
        self.view = view
        self.support = Support(view)
        self.by_line = {
            line.sentence.id: [(family(m), a, b) for m, a, b in metrics_in(line.text)]
            for line in view.lines
        }
        self.in_tables: Counter[str] = Counter()
        for grid in view.grids:
            words = " ".join([*grid.headers, grid.caption, *(r.label for r in grid.rows)])
            self.in_tables.update({family(m) for m, _, _ in metrics_in(words)})
        self.in_text: Counter[str] = Counter()
        self.defined: set[str] = set()
        for line in view.lines:
            names = {m for m, _, _ in self.by_line[line.sentence.id]}
            if line.role != "related":
                self.in_text.update(names)
            is_setup = line.role in EVALUATION and not re.search(r"\d\.\d", line.text)
            if is_setup and DEFINES.search(line.text):
                self.defined |= names


def candidates(view: PaperView) -> list[Candidate]:
    """One for each metric with a number in a claim."""
    census = Census(view)
    found = []
    for line in view.prose:
        if line.role not in CLAIMING or not re.search(r"\d[.\d]|\d ?%", line.text):
            continue
        seen: set[str] = set()
        for metric, start, end in census.by_line[line.sentence.id]:
            near = line.text[max(0, start - 45) : end + 45]
            if metric in NO_CLAIM:
                continue
            if metric not in seen and re.search(r"\d\.\d|\d ?%", near):
                seen.add(metric)
                found.append(_candidate(census, line, metric, start, end))
    return found


def _candidate(census: Census, line: Line, metric: str, start: int, end: int) -> Candidate:
    view = census.view
    numbers = [
        m.number
        for m in view.mentions
        if m.line is line and m.number.decimals and abs(m.number.start - end) < 60
    ]
    cells = [
        cell
        for number in numbers
        for cell in census.support.cells(number)
        if cell[2].number.decimals
    ]
    tables: Counter[str] = Counter()
    columns: set[str] = set()
    for grid, row, entry in cells:
        words = " ".join([*grid.headers, grid.caption, *(r.label for r in grid.rows[:3])])
        tables.update({family(m) for m, _, _ in metrics_in(words)})
        head = grid.column_header(entry, row.width)
        columns |= {family(m) for m, _, _ in metrics_in(head)}
    features = {
        "cell_table_other": float(bool(tables) and not tables[metric]),
        "cell_table_same": float(bool(tables[metric])),
        "column_other": float(bool(columns) and metric not in columns),
        "column_same": float(metric in columns),
        "matched": float(bool(cells)),
        **_counts(census, line, metric),
        **_twins(census, line, metric, {n.value for n in numbers}),
        "others": float(bool(OTHERS.search(line.text))),
        "ours": float(bool(OURS.search(line.text))),
        "elsewhere": float(bool(ELSEWHERE.search(line.text))),
        "summary": float(line.role in ("abstract", "introduction", "conclusion")),
        "weak": float(metric in ("precision", "recall", "error rate")),
        "accuracy": float(metric == "accuracy"),
    }
    return Candidate("metric", features, _flaw(census, line, metric, cells, columns or set(tables)))


def _counts(census: Census, line: Line, metric: str) -> dict[str, float]:
    """How often the paper names the metric, and where."""
    here = {m for m, _, _ in census.by_line[line.sentence.id]}
    elsewhere = census.in_text[metric] - 1
    most = max(census.in_text.values(), default=1)
    main = {name for name, _ in census.in_text.most_common(1)}
    return {
        "never": float(elsewhere <= 0),
        "once": float(elsewhere == 1),
        "log_elsewhere": math.log1p(max(elsewhere, 0)),
        "share": (elsewhere + 1) / (most + 1),
        "no_table": float(not census.in_tables[metric] and bool(census.in_tables)),
        "tables_silent": float(not census.in_tables),
        "never_no_table": float(elsewhere <= 0 and not census.in_tables[metric]),
        "defined": float(metric in census.defined),
        "others_defined": float(bool(census.defined) and metric not in census.defined),
        "alone": float(len(here) == 1),
        "main_absent": float(bool(main) and not here & main),
        "metrics": math.log1p(len(census.in_text)),
    }


def _twins(census: Census, line: Line, metric: str, values: set[float]) -> dict[str, float]:
    """What other sentences with the same number call it."""
    said = {
        name
        for m in census.view.mentions
        if m.number.value in values and m.number.decimals and m.line is not line
        for name, _, _ in census.by_line[m.line.sentence.id]
    }
    return {
        "twin_other": float(bool(said) and metric not in said),
        "twin_same": float(metric in said),
    }


def _flaw(
    census: Census,
    line: Line,
    metric: str,
    cells: list[tuple[Grid, Row, Entry]],
    others: set[str],
) -> Flaw:
    elsewhere = census.in_text[metric] - 1
    usual = ", ".join(m for m, _ in census.in_text.most_common(3) if m != metric)
    evidence = [line.sentence.spans]
    statement = f"Is {metric} the right name here? "
    if cells and others and metric not in others:
        grid, row, _ = cells[0]
        evidence.append((row.span,))
        if grid.caption_spans:
            evidence.append(grid.caption_spans)
        statement += f"{grid.name}, where the number stands, gives {', '.join(sorted(others))}."
    elif elsewhere <= 0:
        statement += f"The paper names it nowhere else; it reports {usual or 'no other metric'}."
    else:
        statement += f"The evaluation names it {elsewhere} more times, and mostly {usual}."
    return Flaw(
        kind="metric_mismatch",
        severity="minor",
        statement=statement,
        confidence=0.0,
        evidence=tuple(evidence),
        question=f"Is {metric} the wrong name for the number in the first quote?",
    )
