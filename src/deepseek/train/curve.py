"""Curves as SVG for reports: no script, light and dark."""

import math
from collections.abc import Mapping, Sequence
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 30
WIDTH, HEIGHT = 640, 220
N_TICKS = 4
N_POINTS = 600
"""Points of a curve at most; of more, means of neighbours are drawn."""

KEYS_A_LINE, LINE = 4, 20
"""Of the legend in a file of its own."""
STYLE = """text { font: 12px system-ui, sans-serif; fill: #333 } .grid { stroke: #ddd }
polyline, line { fill: none; stroke-width: 1.8 } .back { fill: #fff }
.s0 { stroke: #4c78a8 } .s1 { stroke: #e45756 } .s2 { stroke: #54a24b }
.s3 { stroke: #b279a2 } .s4 { stroke: #d68910 } .s5 { stroke: #17a2b8 }
circle { stroke-width: 2 }"""

Points = Sequence[tuple[float, float]]


def line_chart(series: Mapping[str, Points], label: str) -> str:
    """Curves over steps, with a legend; nothing if there are no points.

    Args:
        series: Points by name.
        label: What is drawn, for readers who do not see it.
    """
    drawn = _drawn(series)
    if not drawn:
        return ""
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    keys = "".join(
        f'<span><i class="k{number % 6}"></i>{escape(name)} {points[-1][1]:.4g}</span>'
        for number, (name, points) in enumerate(drawn.items())
    )
    return "\n".join([head, *_body(drawn), "</svg>", f'<p class="keys">{keys}</p>'])


def line_drawing(series: Mapping[str, Points], label: str) -> str:
    """The same as a file of its own; a legend with the last values stands below.

    Args:
        series: Points by name.
        label: What is drawn.
    """
    drawn = _drawn(series)
    height = HEIGHT + LINE * (-(-len(drawn) // KEYS_A_LINE)) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        f"<title>{escape(label)}</title><style>{STYLE}</style>",
        '<rect class="back" width="100%" height="100%"/>',
        *(_body(drawn) if drawn else ()),
    ]
    for number, (name, points) in enumerate(drawn.items()):
        line, place = divmod(number, KEYS_A_LINE)
        x, y = LEFT + place * (WIDTH - LEFT) // KEYS_A_LINE, HEIGHT + LINE * (line + 1) - 4
        parts.append(
            f'<line class="s{number % 6}" x1="{x}" x2="{x + 16}" y1="{y - 4}" y2="{y - 4}"/>'
            f'<text x="{x + 20}" y="{y}">{escape(name)} {points[-1][1]:.4g}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _drawn(series: Mapping[str, Points]) -> dict[str, Points]:
    """What there is to draw, in points that a screen shows."""
    finite = {name: [p for p in points if math.isfinite(p[1])] for name, points in series.items()}
    return {name: _thinned(points) for name, points in finite.items() if points}


def _body(drawn: Mapping[str, Points]) -> list[str]:
    """Grid and curves."""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    ticks = _ticks(min(ys), max(ys))
    low, high = min(ticks[0], min(ys)), max(ticks[-1], max(ys))
    first, last = min(xs), max(max(xs), min(xs) + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        along = (x - first) / (last - first)
        up = (y - low) / ((high - low) or 1.0)
        return LEFT + along * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [
        *(_grid(tick, place(first, tick)[1]) for tick in ticks),
        f'<text x="{LEFT}" y="{HEIGHT - 8}">{first:,.0f}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">step {last:,.0f}</text>',
    ]
    for number, points in enumerate(drawn.values()):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        if len(points) > 1:
            parts.append(f'<polyline class="s{number % 6}" points="{line}"/>')
        else:
            x, y = place(*points[0])
            parts.append(f'<circle class="s{number % 6}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    return parts


def _grid(tick: float, y: float) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that span what is drawn."""
    span = (high - low) or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(span / N_TICKS))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k * N_TICKS >= span)
    first = math.floor(low / step)
    return [step * k for k in range(first, math.ceil(high / step - 1e-9) + 1)]


def _thinned(points: Points) -> Points:
    size = -(-len(points) // N_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
