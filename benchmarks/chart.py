"""Charts as SVG files: ratios to a peer, and curves."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from report import Row

LEFT, WIDTH, BAR, GAP, TOP = 300, 520, 18, 12, 56
STYLE = """text { font: 13px system-ui, sans-serif; fill: #333 }
.bar { fill: #4c78a8 } .short { fill: #b8860b } .range, .one { stroke: #333 }
.one { stroke-dasharray: 3 3 } .must { stroke: #2e7d32; stroke-width: 3 }
.moonshot { stroke: #8e44ad; stroke-width: 3 } .back { fill: #fff }"""

PLOT_HEIGHT, LINES = 220, ("#4c78a8", "#e45756", "#54a24b", "#b8860b")
Points = Sequence[tuple[float, float]]
Panels = Mapping[str, Mapping[str, Points]]
"""Points by title and name."""


def draw_ratios(rows: Sequence[Row], file: Path, peer: str = "llama.cpp on the same file") -> None:
    """Draw a bar for every row that is judged by its ratio to a peer and has a target.

    Args:
        rows: What was measured.
        file: Where to.
        peer: Whom the ratios are to.
    """
    file.write_text(ratio_chart(rows, peer), encoding="utf-8")


def ratio_chart(rows: Sequence[Row], peer: str = "llama.cpp on the same file") -> str:
    """The chart's text: bars, the range over the rounds, and ticks for what is wanted."""
    shown = [r for r in rows if r.judge == "ratio" and r.better == "higher" and r.must is not None]
    most = max((max(r.ratio or 0, r.high or 0, r.moonshot or 0) for r in shown), default=1.0)
    scale = WIDTH / (1.05 * max(most, 1.0))
    height = TOP + len(shown) * (BAR + GAP) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 70} {height}">',
        f"<title>Ratio to {escape(peer)}</title><style>{STYLE}</style>",
        '<rect class="back" width="100%" height="100%"/>',
        f'<text x="{LEFT}" y="20">times {escape(peer)}; line: range of what was measured</text>',
        f'<line class="must" x1="{LEFT}" x2="{LEFT}" y1="28" y2="44"/>'
        f'<text x="{LEFT + 8}" y="41">target</text>',
        f'<line class="moonshot" x1="{LEFT + 70}" x2="{LEFT + 70}" y1="28" y2="44"/>'
        f'<text x="{LEFT + 78}" y="41">moonshot</text>',
        *(_bar(row, TOP + i * (BAR + GAP), scale) for i, row in enumerate(shown)),
        f'<line class="one" x1="{LEFT + scale:.1f}" x2="{LEFT + scale:.1f}" y1="{TOP - 6}" '
        f'y2="{height - 24}"/><text x="{LEFT + scale:.1f}" y="{height - 8}" '
        'text-anchor="middle">1</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bar(row: Row, y: int, scale: float) -> str:
    ratio = row.ratio or 0.0
    middle = y + BAR / 2
    parts = [
        f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(row.name)}</text>',
        f'<rect class="{"bar" if row.is_met else "short"}" x="{LEFT}" y="{y}" '
        f'width="{ratio * scale:.1f}" height="{BAR}"/>',
    ]
    if row.low is not None and row.high is not None:
        parts.append(
            f'<line class="range" x1="{LEFT + row.low * scale:.1f}" '
            f'x2="{LEFT + row.high * scale:.1f}" y1="{middle}" y2="{middle}"/>'
        )
    for kind, value in (("must", row.must), ("moonshot", row.moonshot)):
        if value is not None:
            x = f"{LEFT + value * scale:.1f}"
            parts.append(
                f'<line class="{kind}" x1="{x}" x2="{x}" y1="{y - 3}" y2="{y + BAR + 3}"/>'
            )
    parts.append(f'<text x="{LEFT + WIDTH + 8}" y="{y + 14}">{ratio:.2f}×</text>')
    return "".join(parts)


def draw_curves(panels: Panels, file: Path) -> None:
    """Draw curves over tokens, a panel below the other.

    Args:
        panels: By title: points (tokens, value) by name.
        file: Where to.
    """
    step = PLOT_HEIGHT + 90
    width = LEFT // 4 + WIDTH + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {step * len(panels)}">',
        f'<style>{STYLE} .curve {{ fill: none; stroke-width: 2 }} .grid {{ stroke: #ddd }}</style>',
        '<rect class="back" width="100%" height="100%"/>',
        *(part for i, (title, series) in enumerate(panels.items())
          for part in _panel(title, series, step * i)),
        "</svg>",
    ]  # fmt: skip
    file.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _panel(title: str, series: Mapping[str, Points], top: int) -> list[str]:
    left, y1 = LEFT // 4, top + 50 + PLOT_HEIGHT
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points if math.isfinite(y)]
    low, high, last = min(ys), max(ys), max(xs)
    high = high if high > low else low + 1

    def place(x: float, y: float) -> tuple[float, float]:
        return left + WIDTH * x / last, y1 - PLOT_HEIGHT * (y - low) / (high - low)

    parts = [f'<text x="{left}" y="{top + 20}">{escape(title)}</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = low + share * (high - low)
        y = place(0, value)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{left + WIDTH}" y1="{y:.1f}" '
                     f'y2="{y:.1f}"/><text x="{left - 6}" y="{y + 4:.1f}" '
                     f'text-anchor="end">{value:.3g}</text>')  # fmt: skip
    parts.append(f'<text x="{left + WIDTH}" y="{y1 + 18}" text-anchor="end">{last:,.0f} tokens'
                 "</text>")  # fmt: skip
    for number, (name, points) in enumerate(series.items()):
        colour = LINES[number % len(LINES)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline class="curve" stroke="{colour}" points="{line}"/>')
        parts.append(f'<text x="{left + 150 * number}" y="{top + 40}" style="fill: {colour}">'
                     f"{escape(name)} {points[-1][1]:.3f}</text>")  # fmt: skip
    return parts
