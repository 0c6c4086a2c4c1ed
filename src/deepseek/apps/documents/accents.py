"""Accents that a font draws as glyphs of their own, put back on their letters.

TeX's older fonts print "ü" as "¨" over "u". PDFium reports the accent before, after or far
from its letter ("T ¨ubingen"); where it stands on the paper says to which letter it belongs.
"""

import unicodedata

import numpy as np
from numpy.typing import NDArray

from deepseek.apps.documents.glyphs import PageGlyphs

COMBINING = {
    "`": "\u0300", "´": "\u0301", "ˆ": "\u0302", "^": "\u0302", "˜": "\u0303", "¯": "\u0304",
    "˘": "\u0306", "˙": "\u0307", "¨": "\u0308", "˚": "\u030a", "˝": "\u030b", "ˇ": "\u030c",
    "¸": "\u0327", "˛": "\u0328",
}  # fmt: skip
DOTLESS = {"ı": "i", "ȷ": "j"}
DROPPED = 0  # a code that stands for no character


def compose_accents(page: PageGlyphs) -> PageGlyphs:
    """The page with each accent joined to the letter above or below which it is printed."""
    marks = [i for i, code in enumerate(page.codes.tolist()) if code and chr(code) in COMBINING]
    if not marks:
        return page
    codes, boxes = page.codes.copy(), page.boxes.copy()
    for mark in marks:
        letter = _letter_under(page.boxes, codes, mark)
        if letter is None:
            continue
        base = DOTLESS.get(chr(codes[letter]), chr(codes[letter]))
        composed = unicodedata.normalize("NFC", base + COMBINING[chr(page.codes[mark])])
        if len(composed) != 1:
            continue
        codes[letter], codes[mark] = ord(composed), DROPPED
        boxes[letter] = (*np.minimum(boxes[letter], boxes[mark])[:2],
                         *np.maximum(boxes[letter], boxes[mark])[2:])  # fmt: skip
    return PageGlyphs(
        codes=codes,
        boxes=boxes,
        sizes=page.sizes,
        flags=page.flags,
        width=page.width,
        height=page.height,
        n_images=page.n_images,
        turn=page.turn,
    )


def _letter_under(boxes: NDArray[np.float32], codes: NDArray[np.int32], mark: int) -> int | None:
    """The letter whose middle is the accent's, if their boxes touch or overlap."""
    left, top, right, bottom = boxes[mark].tolist()
    if left != left:
        return None
    low, high = max(0, mark - 400), mark + 400  # an accent stays within its line or the next
    near = boxes[low:high]
    height = near[:, 3] - near[:, 1]
    apart = np.abs((near[:, 0] + near[:, 2]) / 2 - (left + right) / 2)
    with np.errstate(invalid="ignore"):
        touches = (near[:, 1] < bottom + 0.35 * height) & (near[:, 3] > top - 0.35 * height)
        close = touches & (apart < 0.3 * np.maximum(near[:, 2] - near[:, 0], right - left))
    found = [
        low + i
        for i in np.flatnonzero(close).tolist()
        if low + i != mark and chr(codes[low + i]).isalpha()
    ]
    return min(found, key=lambda i: float(apart[i - low]), default=None)
