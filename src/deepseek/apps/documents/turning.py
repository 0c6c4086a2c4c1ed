"""Pages whose text runs upwards or downwards, as on a sheet in landscape: read as if upright."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from deepseek.apps.documents.glyphs import PageGlyphs


def turned(page: PageGlyphs) -> PageGlyphs:
    """The page as it looks when its text is horizontal."""
    if not page.turn:
        return page
    return dataclasses.replace(
        page, boxes=turn_boxes(page.boxes, page.turn, page.width, page.height)
    )


def layout_size(page: PageGlyphs) -> tuple[float, float]:
    """Width and height once the text is horizontal."""
    return layout_of(page.width, page.height, page.turn)


def layout_of(width: float, height: float, turn: int) -> tuple[float, float]:
    """Width and height of a sheet after quarter turns."""
    return (height, width) if turn % 2 else (width, height)


def turn_boxes(
    boxes: NDArray[np.float32], quarters: int, width: float, height: float
) -> NDArray[np.float32]:
    """Boxes on a sheet of this size after turning it clockwise by quarters."""
    for _ in range(quarters % 4):
        left, top, right, bottom = boxes.T
        boxes = np.stack((height - bottom, left, height - top, right), -1).astype(np.float32)
        width, height = height, width
    return boxes
