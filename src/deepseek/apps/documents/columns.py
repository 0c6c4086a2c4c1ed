"""Reading order: a page's runs to lines, column by column, band by band.

Text that crosses the gutter (titles, wide figures' captions, abstracts) cuts the page into
bands; within a band the left column is read before the right one.
"""

import re
from dataclasses import dataclass

from deepseek.apps.documents.lines import CELL_GAP, Line, Run

TABLE = re.compile(r"(table|tab\.|表)\s*(\d|[IVX])", re.IGNORECASE)

MIN_SHARE = 0.12  # of the page's characters that each column must hold
MAX_CROSSING = 0.65  # of the characters that may cross the gutter
MIN_PROSE_RUNS = 5  # runs of prose width that each column must have


@dataclass(slots=True)
class Column:
    """Lines that are read one after another, and the edges they are set to."""

    lines: list[Line]
    left: float
    right: float


def reading_order(runs: list[Run], width: float) -> list[Column]:
    """Columns in reading order.

    Args:
        runs: Runs of one page, in any order.
        width: The page's width in points.
    """
    gutter = find_gutter(runs, width)
    if gutter is None:
        return [_column(runs)] if runs else []
    columns: list[Column] = []
    tables = wide_tables(runs, gutter)
    crossing = [r.left < gutter < r.right or _is_inside(r, tables) for r in runs]
    wide = sorted((r for r, c in zip(runs, crossing, strict=True) if c), key=lambda r: r.middle)
    narrow = [r for r, c in zip(runs, crossing, strict=True) if not c]
    start = 0
    while start < len(wide) or narrow:
        above = [r for r in narrow if start >= len(wide) or r.middle < wide[start].middle]
        narrow = [r for r in narrow if not (start >= len(wide) or r.middle < wide[start].middle)]
        # What stands beside a wide run on its own line (a table's cell) is read with it.
        for side in (True, False):
            part = [r for r in above if (r.right <= gutter) == side]
            if part:
                columns.append(_column(part))
        band, start = _wide_band(wide, start, narrow)
        beside = [r for r in narrow if any(_same_line(r, w) for w in band)]
        narrow = [r for r in narrow if r not in beside]
        if band:
            columns.append(_column(band + beside))
    return columns


def find_gutter(runs: list[Run], width: float) -> float | None:
    """The x between two columns of prose; None on a page with one column."""
    total = sum(len(run.text) for run in runs)
    if total < 200:
        return None
    best, best_crossing = None, total
    for x in range(int(0.35 * width), int(0.65 * width), 2):
        crossing = sum(len(r.text) for r in runs if r.left < x < r.right)
        if crossing < best_crossing:
            best, best_crossing = float(x), crossing
    if best is None or best_crossing > MAX_CROSSING * total:
        return None
    # Several positions may cross equally little: take the middle of the free strip.
    left_edge = max((r.right for r in runs if r.right <= best), default=best)
    right_edge = min((r.left for r in runs if r.left >= best), default=best)
    for run_side in (
        [r for r in runs if r.right <= best],
        [r for r in runs if r.left >= best],
    ):
        prose = sum(1 for r in run_side if r.right - r.left > 0.22 * width and len(r.text) > 20)
        if sum(len(r.text) for r in run_side) < MIN_SHARE * total or prose < MIN_PROSE_RUNS:
            return None
    return (left_edge + right_edge) / 2


def wide_tables(runs: list[Run], gutter: float) -> list[tuple[float, float]]:
    """Top and bottom of the tables that take both columns, found from their captions.

    Their cells need not cross the gutter, so that their halves would be read one after another.
    """
    lines = to_lines(runs)
    found = []
    for i, line in enumerate(lines):
        first = line.runs[0]
        if not (first.left < gutter < first.right and TABLE.match(first.text)):
            continue
        end = i + 1
        while end < len(lines) and any(r.left < gutter < r.right for r in lines[end].runs):
            if lines[end].top - lines[end - 1].bottom > 0.8 * first.size:
                break
            end += 1
        above, below = _rows(lines, i, -1, gutter), _rows(lines, end - 1, 1, gutter)
        rows = above or below
        if above and below:  # the table is nearer to its caption than its neighbour
            nearer = line.top - above[0].bottom <= below[0].top - lines[end - 1].bottom
            rows = above if nearer else below
        if rows:
            found.append((min(row.top for row in rows), max(row.bottom for row in rows)))
    return found


def _rows(lines: list[Line], start: int, step: int, gutter: float) -> list[Line]:
    """Lines from a caption on in one direction for as long as they are rows of a wide table."""
    rows: list[Line] = []
    last = lines[start]
    half = max(line.right for line in lines) - gutter
    i = start + step
    while 0 <= i < len(lines):
        line = lines[i]
        gap = max(line.top - last.bottom, last.top - line.bottom)
        long = [r for r in line.runs if r.right - r.left > 0.75 * half and _is_wordy(r)]
        is_prose = len(long) > 1 or (long and len(line.runs) < 3)
        if gap > 2.5 * max(line.size, last.size) or is_prose or TABLE.match(line.text):
            break
        rows.append(line)
        last = line
        i += step
    while rows and not _spans(rows[-1], gutter, cells=2):
        rows.pop()
    return rows if sum(1 for row in rows if _spans(row, gutter, cells=3)) >= 2 else []


def _spans(line: Line, gutter: float, cells: int) -> bool:
    """Whether a line has cells on both sides of the gutter, and at least so many in all."""
    return len(line.runs) >= cells and line.left < gutter < line.right


def _is_wordy(run: Run) -> bool:
    return len(run.text) > 30 and sum(c.isalpha() for c in run.text) > 0.6 * len(run.text)


def _is_inside(run: Run, strips: list[tuple[float, float]]) -> bool:
    return any(top <= run.middle <= bottom for top, bottom in strips)


def _wide_band(wide: list[Run], start: int, narrow: list[Run]) -> tuple[list[Run], int]:
    """Wide runs that follow one another without column text between."""
    band: list[Run] = []
    while start < len(wide):
        if band and any(_between(r, band[-1], wide[start]) for r in narrow):
            break
        band.append(wide[start])
        start += 1
    return band, start


def _between(run: Run, above: Run, below: Run) -> bool:
    beside = _same_line(run, above) or _same_line(run, below)
    return above.middle < run.middle < below.middle and not beside


def _column(runs: list[Run]) -> Column:
    lines = to_lines(runs)
    # Edges that most lines respect, not those of a stray run.
    lefts, rights = sorted(line.left for line in lines), sorted(line.right for line in lines)
    return Column(lines, left=lefts[len(lefts) // 10], right=rights[-1 - len(rights) // 10])


def to_lines(runs: list[Run]) -> list[Line]:
    """Group runs on one baseline, top to bottom, left to right."""
    lines: list[Line] = []
    for run in sorted(runs, key=lambda r: (r.middle, r.left)):
        if lines and any(_same_line(run, other) for other in lines[-1].runs):
            lines[-1].runs.append(run)
        else:
            lines.append(Line([run]))
    for line in lines:
        line.runs = _close_gaps(sorted(line.runs, key=lambda r: r.left))
    return lines


def _close_gaps(runs: list[Run]) -> list[Run]:
    """Join runs that only an index, an exponent or a formula had separated."""
    joined: list[Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if last is None or run.left - last.right > CELL_GAP * max(run.size, last.size):
            joined.append(run)
            continue
        space = run.left - last.right > 0.1 * max(run.size, last.size)
        main = max(last, run, key=lambda r: len(r.text))
        joined[-1] = Run(
            text=last.text + " " * space + run.text,
            boxes=last.boxes + [None] * space + run.boxes,
            left=last.left,
            top=min(last.top, run.top),
            right=max(last.right, run.right),
            bottom=max(last.bottom, run.bottom),
            size=main.size,
            bold=main.bold,
            mono=last.mono and run.mono,
        )
    return joined


def _same_line(a: Run, b: Run) -> bool:
    overlap = min(a.bottom, b.bottom) - max(a.top, b.top)
    if overlap > 0.5 * min(a.height, b.height):
        return True
    # An index or exponent: smaller, right beside, and overlapping a little.
    gap = max(a.left, b.left) - min(a.right, b.right)
    beside = abs(a.size - b.size) > 1 and gap < 0.3 * max(a.size, b.size)
    return beside and overlap > 0.2 * min(a.height, b.height)
