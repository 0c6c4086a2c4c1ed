"""Made-up pages of glyphs, for tests of layout without a PDF."""

from typing import Any

import numpy as np

from deepseek.apps.documents.glyphs import BOLD, GENERATED, MONO, TILTED, PageGlyphs
from deepseek.apps.documents.lines import Line, Run

WIDTH = 0.5  # of the font size, for every character


def glyph_page(*pieces: tuple[Any, ...]) -> PageGlyphs:
    """A page of pieces `(text, left, top[, size[, style]])`; a space is one that PDFium adds.

    Styles are letters: b bold, m typewriter, t tilted.
    """
    codes: list[int] = []
    boxes: list[tuple[float, ...]] = []
    sizes: list[float] = []
    flags: list[int] = []
    for text, left, top, *rest in pieces:
        size = float(rest[0]) if rest else 10.0
        style = str(rest[1]) if len(rest) > 1 else ""
        kind = BOLD * ("b" in style) | MONO * ("m" in style) | TILTED * ("t" in style)
        for i, character in enumerate(text):
            codes.append(ord(character))
            x = left + i * WIDTH * size
            is_space = character in " \n\x02"
            nowhere = (float("nan"),) * 4
            boxes.append(nowhere if is_space else (x, top, x + WIDTH * size, top + 0.7 * size))
            sizes.append(size)
            flags.append(GENERATED if is_space else kind)
    return PageGlyphs(
        codes=np.array(codes, np.int32),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        sizes=np.array(sizes, np.float32),
        flags=np.array(flags, np.uint8),
        width=600.0,
        height=800.0,
        n_images=0,
    )


def run(
    text: str, left: float, top: float, size: float = 10.0, bold: bool = False, mono: bool = False
) -> Run:
    """A run whose characters are all as wide as half the font size."""
    left, top, size = float(left), float(top), float(size)
    step = WIDTH * size
    boxes = [
        None if c == " " else (left + i * step, top, left + (i + 1) * step, top + 0.7 * size)
        for i, c in enumerate(text)
    ]
    return Run(text, boxes, left, top, left + len(text) * step, top + 0.7 * size, size, bold, mono)


def line(*runs: Run) -> Line:
    """A line of runs."""
    return Line(list(runs))
