"""A chart of what each way to tune forgets, as an SVG file."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from report import Row

LEFT, WIDTH, BAR, GAP, TOP = 300, 520, 18, 10, 40
COLOURS = ("#b8860b", "#4c78a8", "#2e7d32")
STYLE = """text { font: 13px system-ui, sans-serif; fill: #333 }
.range, .base { stroke: #333 } .back { fill: #fff } .head { font-weight: 600 }"""
MARK = "forgetting, "


def draw_forgetting(rows: Sequence[Row], file: Path) -> None:
    """Draw the rows named `forgetting, ARM: WHAT`, a group of bars for each WHAT."""
    file.write_text(forgetting_chart(rows), encoding="utf-8")


def forgetting_chart(rows: Sequence[Row]) -> str:
    """The chart's text: rises of bits per byte with their intervals."""
    shown = [row for row in rows if row.name.startswith(MARK)]
    groups: dict[str, list[tuple[str, Row]]] = {}
    for row in shown:
        arm, _, what = row.name.removeprefix(MARK).partition(": ")
        groups.setdefault(what, []).append((arm, row))
    ends = [end for row in shown for end in (row.value, row.low or 0.0, row.high or 0.0, 0.0)]
    least, most = min(ends, default=0.0), max(ends, default=1.0)
    scale = WIDTH / ((most - least) * 1.05 or 1.0)
    zero = LEFT - least * scale
    y, parts = TOP, list[str]()
    for what, found in groups.items():
        parts.append(f'<text class="head" x="8" y="{y + 14}">{escape(what)}</text>')
        y += BAR + GAP
        for (arm, row), colour in zip(found, COLOURS, strict=True):
            parts += _bar(arm, row, colour, y, zero, scale)
            y += BAR + GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 80} {y + 8}">',
            f"<title>What is forgotten</title><style>{STYLE}</style>",
            '<rect class="back" width="100%" height="100%"/>',
            f'<text x="{LEFT}" y="20">bits per byte more than before tuning; '
            "line: 95 % interval over items</text>",
            *parts,
            f'<line class="base" x1="{zero:.1f}" x2="{zero:.1f}" y1="{TOP - 8}" y2="{y}"/>',
            "</svg>\n",
        ]
    )


def _bar(arm: str, row: Row, colour: str, y: int, zero: float, scale: float) -> list[str]:
    start, end = sorted((zero, zero + row.value * scale))
    middle = y + BAR / 2
    low, high = (zero + (x if x is not None else row.value) * scale for x in (row.low, row.high))
    return [
        f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(arm)}</text>',
        f'<rect fill="{colour}" x="{start:.1f}" y="{y}" width="{end - start:.1f}" height="{BAR}"/>',
        f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>',
        f'<text x="{LEFT + WIDTH + 8}" y="{y + 14}">{row.value:+.4f}</text>',
    ]
