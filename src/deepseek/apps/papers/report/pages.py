"""What the HTML report shows of the paper: page images with rectangles, or page texts."""

import base64
import hashlib
import math
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from deepseek.apps.documents.document import Document, Page, Span
from deepseek.apps.documents.glyphs import run_worker
from deepseek.core.errors import DeepSeekError
from deepseek.core.log import LOGGER

SCALE = 1.6  # pixels per point: sharp on ordinary screens, about 100 kB a page


@dataclass(frozen=True, slots=True)
class Highlight:
    """Part of a quote on a page, in per cent of the page's width and height."""

    quote: int
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a page's text; `quote` is the number of the quote it belongs to, or None."""

    text: str
    quote: int | None


@dataclass(frozen=True, slots=True)
class ShownPage:
    """A page as the report shows it: an image with highlights, or pieces of text."""

    number: int
    ratio: float
    """Width over height."""
    image: str = ""
    """A data URI; empty: show the pieces."""
    highlights: tuple[Highlight, ...] = ()
    pieces: tuple[Piece, ...] = ()


def shown_pages(
    document: Document, quotes: list[tuple[Span, ...]], pdf: Path | None
) -> list[ShownPage]:
    """The pages on which quotes stand, in order.

    Args:
        document: The paper.
        quotes: Spans of each quote; a quote's number is its place here.
        pdf: The file to draw from, if it is the one that was read.
    """
    places: dict[int, list[tuple[int, Span]]] = defaultdict(list)
    for number, spans in enumerate(quotes):
        for span in spans:
            places[span.page].append((number, span))
    images = draw_pages(document, pdf, sorted(places)) if pdf is not None else {}
    shown = []
    for number in sorted(places):
        page = document.pages[number - 1]
        ratio = page.width / page.height if page.height else 0.7
        if number in images:
            marks = tuple(h for q, span in places[number] for h in rectangles(page, span, q))
            shown.append(ShownPage(number, ratio, image=images[number], highlights=marks))
        else:
            shown.append(ShownPage(number, ratio, pieces=cut(page, places[number])))
    return shown


def draw_pages(document: Document, pdf: Path, numbers: list[int]) -> dict[int, str]:
    """Images of pages as data URIs; nothing if the file is gone or is another one by now."""
    try:
        with pdf.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return {}
    if digest != document.id:
        return {}
    images = {}
    with tempfile.TemporaryDirectory(prefix="deepseek-") as folder:
        target = Path(folder) / "page.webp"
        for number in numbers:
            try:
                run_worker(["render", str(pdf), str(target), str(number), str(SCALE)], pdf)
            except DeepSeekError as error:  # the text is shown instead
                LOGGER.warning("page %d cannot be drawn: %s", number, error.message)
                continue
            data = base64.b64encode(target.read_bytes()).decode("ascii")
            images[number] = f"data:image/webp;base64,{data}"
    return images


def rectangles(page: Page, span: Span, quote: int) -> list[Highlight]:
    """One rectangle for each line of a span."""
    if page.boxes is None or not page.width or not page.height:
        return []
    lines: list[list[float]] = []
    for left, top, right, bottom in page.boxes[span.start : span.end].tolist():
        if math.isnan(left):
            continue
        current = lines[-1] if lines else None
        same_line = (
            current is not None
            and (top + bottom) / 2 < current[3] + 1
            and (top + bottom) / 2 > current[1] - 1
            and left > current[0] - 1
        )
        if current is not None and same_line:
            current[1], current[2] = min(current[1], top), max(current[2], right)
            current[3] = max(current[3], bottom)
        else:
            lines.append([left, top, right, bottom])
    return [
        Highlight(
            quote,
            100 * left / page.width,
            100 * top / page.height,
            100 * (right - left) / page.width,
            100 * (bottom - top) / page.height,
        )
        for left, top, right, bottom in lines
    ]


def cut(page: Page, places: list[tuple[int, Span]]) -> tuple[Piece, ...]:
    """The page's text cut at the quotes; where two overlap, the first keeps the characters."""
    pieces: list[Piece] = []
    position = 0
    for quote, span in sorted(places, key=lambda place: place[1]):
        start = max(span.start, position)
        if start >= span.end:
            continue
        if position < start:
            pieces.append(Piece(page.text[position:start], None))
        pieces.append(Piece(page.text[start : span.end], quote))
        position = span.end
    if position < len(page.text):
        pieces.append(Piece(page.text[position:], None))
    return tuple(pieces)
