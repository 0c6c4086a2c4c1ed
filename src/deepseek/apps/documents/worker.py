"""The child process in which PDFium opens an untrusted file.

Run as `python -m deepseek.apps.documents.worker glyphs FILE OUT` or `… render FILE OUT PAGE
SCALE`. It limits its own memory and time first, so that a hostile file ends this process and
not the program. Progress goes to stdout, one `page done total` a line; a refusal is one
`error …` line.
"""

import ctypes
import re
import sys
from functools import lru_cache
from math import hypot
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2 as pdfium
import pypdfium2.raw as c

from deepseek.apps.documents.glyphs import BOLD, GENERATED, MONO, TILTED

MEMORY_BYTES = 4 << 30
CPU_SECONDS = 900
MAX_PAGES = 5_000
_NAME = ctypes.create_string_buffer(129)
_NOWHERE = (float("nan"),) * 4
FEW = 200  # characters: fewer, and the page may be a picture of a page
MIN_LINE = 25  # characters that make a line of text
MAX_CHARACTERS = 200_000  # a page; a book's page has 3,000
MONO_NAME = re.compile(
    rb"mono|courier|cmtt|cmsltt|typewriter|consol|ectt|sftt|nimbusmon|menlo|txtt|lmtt|zi4",
    re.IGNORECASE,
)
BOLD_NAME = re.compile(
    rb"bold|black|heavy|demi|medi\b|medi(?=ital)|cmbx|cmssbx|bx\d|-bd|\+ptmb|\+phvb|simhei",
    re.IGNORECASE,
)


def main(arguments: list[str]) -> int:
    """Extract characters or render a page."""
    _limit()
    action, source, target = arguments[:3]
    try:
        document = pdfium.PdfDocument(source)
        n_pages = len(document)
    except pdfium.PdfiumError as error:
        print("error encrypted" if "password" in str(error).lower() else f"error corrupt {error}")
        return 3
    if action == "render":
        image = document[int(arguments[3]) - 1].render(scale=float(arguments[4])).to_pil()
        image.convert("RGB").save(target, format="WEBP", quality=80, method=4)
        return 0
    if n_pages > MAX_PAGES:
        print(f"error pages {n_pages}")
        return 3
    pages = []
    for number in range(n_pages):
        pages.append(_page(document, number))
        print(f"page {number + 1} {n_pages}", flush=True)
    _save(Path(target), pages, _title(document))
    return 0


def _limit() -> None:
    try:
        import resource
    except ImportError:  # Windows: the parent's time limit still holds
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def _title(document: Any) -> str:
    try:
        return str(document.get_metadata_value("Title") or "")[:1000]
    except (pdfium.PdfiumError, UnicodeError):
        return ""


def _page(document: Any, number: int) -> dict[str, Any]:
    """Characters of one page with boxes (points, from the top left), sizes and weights."""
    try:
        page = document[number]
        text = page.get_textpage()
    except pdfium.PdfiumError:
        return _empty()
    width, height = page.get_size()
    left0, bottom0 = page.get_cropbox()[:2]
    codes, boxes, sizes, flags, angles = _characters(text.raw)
    boxes[:, [0, 2]] -= left0
    boxes[:, [1, 3]] = height + bottom0 - boxes[:, [1, 3]]
    if page.get_rotation():
        # PDFium gives boxes in unrotated space: keep the text, drop what could mislead.
        boxes[:] = _upright(boxes, page.get_rotation(), width, height)
    turn = _turn(codes, angles, flags, page.get_rotation())
    n_images = 0
    if len(codes) < FEW:  # a scan? Listing a page's objects takes time, so only then
        objects = page.get_objects(filter=[c.FPDF_PAGEOBJ_IMAGE], max_depth=2)
        n_images = sum(1 for _ in objects)
    text.close()
    page.close()
    return {
        "codes": codes,
        "boxes": boxes,
        "sizes": sizes,
        "flags": flags,
        "size": (width, height, n_images, turn),
    }


def _turn(codes: Any, angles: Any, flags: Any, rotation: int) -> int:
    """Quarters by which the text's lines are turned to the left on the page as it is shown.

    Sets the flag of all characters that run in another direction. Words do not count: a
    figure may have more of them on its axes than its page has text.
    """
    written = (flags & GENERATED) == 0
    quarters = np.round(angles / (np.pi / 2))
    skewed = np.abs(angles - quarters * (np.pi / 2)) > 0.1
    quarters = quarters.astype(np.int64) % 4
    usual = -rotation // 90 % 4  # PDFium counts angles clockwise
    line_of = np.cumsum((codes == 10) | (codes == 13) | (np.diff(quarters, prepend=0) != 0))
    of_lines = np.bincount(line_of, weights=written, minlength=1)[line_of] >= MIN_LINE
    counts = np.bincount(quarters[written & ~skewed & of_lines], minlength=4)
    main = usual if counts[usual] * 2 >= counts.sum() else int(counts.argmax())
    flags[written & (skewed | (quarters != main))] |= TILTED
    return (usual - main) % 4


def _characters(raw: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Codes, boxes as PDFium gives them, font sizes, flags and angles.

    Each call crosses into C, so only what can differ from one character to the next is asked
    for every one; weight and angle once a word, "generated" only where it is possible.
    """
    n = min(max(c.FPDFText_CountChars(raw), 0), MAX_CHARACTERS)
    code_of, box_of, size_of = (
        c.FPDFText_GetUnicode,
        c.FPDFText_GetCharBox,
        c.FPDFText_GetFontSize,
    )
    codes = [code_of(raw, i) for i in range(n)]
    boxes, flags, angles = [_NOWHERE] * n, [0] * n, [0.0] * n
    corners = [ctypes.c_double() for _ in range(4)]
    left, right, bottom, top = corners
    pointers = [ctypes.byref(corner) for corner in corners]
    matrix, matrix_of = c.FS_MATRIX(), c.FPDFText_GetMatrix
    matrix_pointer = ctypes.byref(matrix)
    scales = [1.0] * n
    style, angle, scale, at_word = 0, 0.0, 1.0, True
    for i, code in enumerate(codes):
        if code <= 32 and c.FPDFText_IsGenerated(raw, i) == 1:
            flags[i] = GENERATED
        else:
            if at_word:
                style = _style(raw, i)
                angle = c.FPDFText_GetCharAngle(raw, i)
                # Some writers set every font at size 1 and let the matrix enlarge it.
                scale = hypot(matrix.c, matrix.d) if matrix_of(raw, i, matrix_pointer) else 1.0
            flags[i] = style
            scales[i] = scale
            angles[i] = angle
            if box_of(raw, i, *pointers):
                boxes[i] = (left.value, top.value, right.value, bottom.value)
        at_word = code <= 32
    return (
        np.array(codes, np.int32),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([size_of(raw, i) * scale for i, scale in enumerate(scales)], np.float32),
        np.array(flags, np.uint8),
        np.array(angles, np.float64),
    )


def _style(raw: Any, i: int) -> int:
    """Flags by the font's name; by its weight only if it has none.

    The weight that PDFium derives from stem widths calls some regular fonts bold.
    """
    _NAME[0] = b"\0"
    if c.FPDFText_GetFontInfo(raw, i, _NAME, 128, None) and _NAME.value:
        return _style_of_name(_NAME.value)
    return BOLD if c.FPDFText_GetFontWeight(raw, i) >= 600 else 0


@lru_cache(1024)
def _style_of_name(name: bytes) -> int:
    bold = BOLD_NAME.search(name) is not None
    return BOLD * bold | MONO * (MONO_NAME.search(name) is not None)


def _upright(boxes: Any, rotation: int, width: float, height: float) -> Any:
    """Boxes as they appear on a page that is shown rotated by 90, 180 or 270 degrees."""
    left, top, right, bottom = boxes.T
    # `top` was measured from the shown height; undo that to get unrotated coordinates.
    if rotation == 180:
        return np.stack((width - right, height - bottom, width - left, height - top), -1)
    raw_top, raw_bottom = height - top, height - bottom
    if rotation == 90:
        return np.stack((raw_bottom, left, raw_top, right), -1)
    return np.stack((width - raw_top, height - right, width - raw_bottom, height - left), -1)


def _empty() -> dict[str, Any]:
    return {
        "codes": np.zeros(0, np.int32),
        "boxes": np.zeros((0, 4), np.float32),
        "sizes": np.zeros(0, np.float32),
        "flags": np.zeros(0, np.uint8),
        "size": (0.0, 0.0, 0, 0),
    }


def _save(target: Path, pages: list[dict[str, Any]], title: str) -> None:
    joined = {
        key: np.concatenate([page[key] for page in pages]) if pages else _empty()[key]
        for key in ("codes", "boxes", "sizes", "flags")
    }
    np.savez(
        target,
        allow_pickle=False,
        **joined,
        counts=np.array([len(page["codes"]) for page in pages], np.int64),
        pages=np.array([page["size"] for page in pages], np.float32).reshape(-1, 4),
        title=np.frombuffer(title.encode("utf-8", "replace"), np.uint8),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
