"""A chart of ratios to a peer as an SVG file."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from report import Row

LEFT, WIDTH, BAR, GAP, TOP = 300, 520, 18, 12, 56
STYLE = """text { font: 13px system-ui, sans-serif; fill: #333 }
.bar { fill: #4c78a8 } .short { fill: #b8860b } .range, .one { stroke: #333 }
.one { stroke-dasharray: 3 3 } .must { stroke: #2e7d32; stroke-width: 3 }
.moonshot { stroke: #8e44ad; stroke-width: 3 } .back { fill: #fff }"""


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
