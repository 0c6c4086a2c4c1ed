"""Tables: which cells of different rows stand under one another."""

from bisect import bisect_left

from deepseek.apps.documents.lines import Line, Run

SPLIT_GAP = 0.5  # in font sizes: a wider space may separate two columns
SUPPORT = 0.1  # of the rows must have a gap where two columns part


def align_cells(lines: list[Line]) -> list[list[tuple[int, int]]]:
    """Cut cells that two columns share and say in which columns each cell stands.

    Args:
        lines: The table's rows; runs that reach over a column's edge are split in place.

    Returns:
        For each row and cell its first column and how many columns it stands over.
    """
    edges = column_edges(lines)
    places = []
    for line in lines:
        line.runs = _merged([part for run in line.runs for part in _split(run, edges)], edges)
        row = []
        for run in line.runs:
            first, last = bisect_left(edges, run.left + 0.5), bisect_left(edges, run.right - 0.5)
            row.append((first, max(last - first, 0) + 1))
        places.append(row)
    return places


def column_edges(lines: list[Line]) -> list[float]:
    """Where columns part, from the left: points that lie in a gap of enough rows."""
    gaps = sorted((gap for line in lines for gap in _gaps(line)), key=lambda gap: (gap[1], gap[0]))
    needed = max(2, SUPPORT * len(lines))
    edges: list[float] = []
    while gaps:
        # The gap that ends first must be pierced at its end at the latest; what the same
        # point pierces too is the same edge.
        pierced = [gap for gap in gaps if gap[0] < gaps[0][1]]
        gaps = [gap for gap in gaps if gap[0] >= gaps[0][1]]
        if len(pierced) >= needed:
            edges.append((max(gap[0] for gap in pierced) + pierced[0][1]) / 2)
    return edges


def _gaps(line: Line) -> list[tuple[float, float]]:
    """Left and right end of each space that is too wide to part words."""
    found = []
    for i, run in enumerate(line.runs):
        if i and run.left - line.runs[i - 1].right > 0:
            found.append((line.runs[i - 1].right, run.left))
        found += [(left, right) for _, left, right in _wide_spaces(run)]
    return found


def _wide_spaces(run: Run) -> list[tuple[int, float, float]]:
    """Index, left and right end of the wide spaces inside a run."""
    found = []
    place = run.text.find(" ", 1)
    while 0 < place < len(run.text) - 1:
        before, after = run.boxes[place - 1], run.boxes[place + 1]
        if before is not None and after is not None:
            left, right = before[2], after[0]
            # A typewriter font's own space is 0.6 wide.
            if right - left > (SPLIT_GAP if not run.mono else 2 * SPLIT_GAP + 0.2) * run.size:
                found.append((place, left, right))
        place = run.text.find(" ", place + 1)
    return found


def _split(run: Run, edges: list[float]) -> list[Run]:
    """Cut a run at wide spaces that stand over an edge between columns."""
    for place, left, right in _wide_spaces(run):
        if any(left - 1 < edge < right + 1 for edge in edges):
            head, tail = _part(run, 0, place), _part(run, place + 1, len(run.text))
            if head and tail:
                return [head, *_split(tail, edges)]
    return [run]


def _part(run: Run, start: int, end: int) -> Run | None:
    boxes = [box for box in run.boxes[start:end] if box is not None]
    if not boxes:
        return None
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return Run(
        text=run.text[start:end],
        boxes=run.boxes[start:end],
        left=min(lefts),
        top=min(tops),
        right=max(rights),
        bottom=max(bottoms),
        size=run.size,
        bold=run.bold,
        mono=run.mono,
    )


def _merged(runs: list[Run], edges: list[float]) -> list[Run]:
    """Join runs that stand in one column: a wide space inside a cell."""
    merged: list[Run] = []
    for run in runs:
        last = merged[-1] if merged else None
        if last is None or bisect_left(edges, last.right - 0.5) != bisect_left(
            edges, run.left + 0.5
        ):
            merged.append(run)
            continue
        merged[-1] = Run(
            text=f"{last.text} {run.text}",
            boxes=[*last.boxes, None, *run.boxes],
            left=last.left,
            top=min(last.top, run.top),
            right=max(last.right, run.right),
            bottom=max(last.bottom, run.bottom),
            size=last.size,
            bold=last.bold and run.bold,
            mono=last.mono and run.mono,
        )
    return merged
