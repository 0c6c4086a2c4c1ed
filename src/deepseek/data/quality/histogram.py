"""A histogram as an SVG drawing: all documents behind, the dropped ones in front."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deepseek.data.quality.tally import value_of

WIDTH, HEIGHT, BARS = 300, 70, 40
TAIL = 0.005
"""Share of values at each end that is drawn in the last bar: one outlier must not flatten all."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bars of one score."""

    name: str
    low: float
    high: float
    heights: tuple[float, ...]
    """Pixels of all documents."""
    dropped: tuple[float, ...]
    """Pixels of dropped ones."""

    @property
    def svg(self) -> str:
        """The drawing; it has no text."""
        step = WIDTH / BARS
        bars = [
            f'<rect class="{kind}" x="{i * step:.1f}" y="{HEIGHT - height:.1f}" '
            f'width="{step - 1:.1f}" height="{height:.1f}"/>'
            for kind, heights in (("all", self.heights), ("out", self.dropped))
            for i, height in enumerate(heights)
            if height
        ]
        size = f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none"'
        return f'<svg {size} aria-hidden="true">{"".join(bars)}</svg>'


def histogram(name: str, bins: Mapping[str, int], dropped: Mapping[str, int]) -> Histogram | None:
    """The drawing of counted bins; None where nothing was counted."""
    if not bins:
        return None
    values = np.array([value_of(int(key)) for key in bins])
    counts = np.array(list(bins.values()), np.float64)
    order = np.argsort(values)
    shares = np.cumsum(counts[order]) / counts.sum()
    first, last = np.searchsorted(shares, (TAIL, 1 - TAIL)).tolist()
    low, high = (float(values[order[min(i, len(order) - 1)]]) for i in (first, last))
    if high <= low:
        low, high = min(low, 0.0), max(high, low + 1.0)
    gone = np.array([dropped.get(key, 0) for key in bins], np.float64)
    places = np.clip(((values - low) / (high - low) * BARS).astype(int), 0, BARS - 1)
    heights = [np.bincount(places, weights=w, minlength=BARS) for w in (counts, gone)]
    # The root of a count: a bar of 1 among thousands is still seen.
    scale = HEIGHT / np.sqrt(max(1.0, heights[0].max()))
    scaled = [tuple((np.sqrt(h) * scale).round(1).tolist()) for h in heights]
    return Histogram(name, low, high, scaled[0], scaled[1])
