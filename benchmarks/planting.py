"""Edits of a document: pieces of its text replaced or removed, every span moved along.

`edited` is exact: what was not touched reads the same, and quotes of it stay verbatim. The plants
below use it to put one known flaw into a paper. They only act where the paper has what they take
away or falsify; otherwise they return None.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from deepseek.apps.documents.document import (
    Block,
    Cell,
    Document,
    Page,
    Sentence,
    Span,
    Table,
)


@dataclass(frozen=True, slots=True, order=True)
class Edit:
    """Replace the text at a span."""

    span: Span
    replacement: str = ""


class Shift:
    """Where the positions of one page went."""

    def __init__(self, edits: list[Edit]) -> None:
        self.edits = edits

    def moved(self, position: int, *, is_end: bool) -> int:
        """The new place of a position; inside a replaced piece, its start or end."""
        delta = 0
        for edit in self.edits:
            start, end = edit.span.start, edit.span.end
            if position >= end and (position > start or is_end):
                delta += len(edit.replacement) - (end - start)
            elif position > start:
                return start + delta + (len(edit.replacement) if is_end else 0)
            else:
                break
        return position + delta

    def apply(self, page: Page) -> Page:
        """The page with its new text and boxes."""
        text, boxes, last = [], [], 0
        for edit in self.edits:
            text += [page.text[last : edit.span.start], edit.replacement]
            if page.boxes is not None:
                unknown = np.full((len(edit.replacement), 4), np.nan, np.float32)
                boxes += [page.boxes[last : edit.span.start], unknown]
            last = edit.span.end
        text.append(page.text[last:])
        if page.boxes is None:
            return dataclasses.replace(page, text="".join(text))
        boxes.append(page.boxes[last:])
        return dataclasses.replace(page, text="".join(text), boxes=np.concatenate(boxes))


def edited(
    document: Document, edits: Iterable[Edit], drop_sections: frozenset[int] = frozenset()
) -> Document:
    """A document with some of its text replaced; what is left without text is gone.

    Args:
        document: The document.
        edits: Pieces to replace. Overlapping ones are merged into one removal.
        drop_sections: Sections whose headings go; their blocks must be empty by then.
    """
    by_page: dict[int, list[Edit]] = {}
    for edit in _merged(edits):
        by_page.setdefault(edit.span.page, []).append(edit)
    shifts = {page: Shift(changes) for page, changes in by_page.items()}
    pages = tuple(shifts[p.number].apply(p) if p.number in shifts else p for p in document.pages)

    def move(spans: tuple[Span, ...]) -> tuple[Span, ...]:
        moved = [
            Span(
                s.page,
                shifts[s.page].moved(s.start, is_end=False) if s.page in shifts else s.start,
                shifts[s.page].moved(s.end, is_end=True) if s.page in shifts else s.end,
            )
            for s in spans
        ]
        return tuple(s for s in moved if pages[s.page - 1].text[s.start : s.end].strip())

    return _rebuilt(document, pages, move, drop_sections)


def _merged(edits: Iterable[Edit]) -> list[Edit]:
    merged: list[Edit] = []
    for edit in sorted(edits):
        last = merged[-1] if merged else None
        if last and last.span.page == edit.span.page and edit.span.start < last.span.end:
            end = max(last.span.end, edit.span.end)
            merged[-1] = Edit(Span(last.span.page, last.span.start, end))
        else:
            merged.append(edit)
    return merged


def _rebuilt(
    document: Document,
    pages: tuple[Page, ...],
    move: Callable[[tuple[Span, ...]], tuple[Span, ...]],
    drop_sections: frozenset[int],
) -> Document:
    kept_sections = [i for i in range(len(document.sections)) if i not in drop_sections]
    section_at = {old: new for new, old in enumerate(kept_sections)}
    blocks: list[Block] = []
    block_at: dict[int, int] = {}
    for i, block in enumerate(document.blocks):
        spans = move(block.spans)
        if spans and block.section in section_at:
            block_at[i] = len(blocks)
            blocks.append(Block(block.kind, spans, section_at[block.section]))
    sentences: list[Sentence] = []
    for sentence in document.sentences:
        spans = move(sentence.spans)
        if spans and sentence.block in block_at:
            sentences.append(Sentence(f"S{len(sentences) + 1}", spans, block_at[sentence.block]))
    tables = []
    for table in document.tables:
        rows = tuple(row for cells in table.rows if (row := _cells(pages, cells, move)))
        if table.block in block_at and rows:
            caption = None if table.caption is None else block_at.get(table.caption)
            tables.append(Table(caption, block_at[table.block], rows))
    return dataclasses.replace(
        document,
        pages=pages,
        blocks=tuple(blocks),
        sentences=tuple(sentences),
        sections=tuple(document.sections[i] for i in kept_sections),
        tables=tuple(tables),
    )


def _cells(
    pages: tuple[Page, ...],
    cells: tuple[Cell, ...],
    move: Callable[[tuple[Span, ...]], tuple[Span, ...]],
) -> tuple[Cell, ...]:
    found = []
    for cell in cells:
        for span in move((cell.span,)):
            text = pages[span.page - 1].text[span.start : span.end]
            found.append(dataclasses.replace(cell, text=text, span=span))
    return tuple(found)


def place(
    document: Document, edits: Iterable[Edit], extra: Iterable[Span] = ()
) -> tuple[Span, ...]:
    """Where the replacements, and other spans of the old text, stand in the edited document."""
    merged = _merged(edits)
    found = []
    for span in [*(e.span for e in merged), *extra]:
        shift = Shift([e for e in merged if e.span.page == span.page])
        start = shift.moved(span.start, is_end=False)
        found.append(Span(span.page, start, max(shift.moved(span.end, is_end=True), start + 1)))
    return tuple(found)


def piece(sentence: Sentence, start: int, end: int) -> Span | None:
    """The span of a piece of a sentence's text; None if it runs over two pages."""
    offset = 0
    for span in sentence.spans:
        length = span.end - span.start
        if offset <= start and end <= offset + length:
            return Span(span.page, span.start + start - offset, span.start + end - offset)
        offset += length + 1
    return None


def without_sentence(document: Document, sentence: Sentence) -> list[Edit]:
    """Edits that remove a sentence with the space after it."""
    edits = []
    for span in sentence.spans:
        text = document.pages[span.page - 1].text
        end = span.end + (1 if re.match(r" ", text[span.end : span.end + 1]) else 0)
        edits.append(Edit(Span(span.page, span.start, end)))
    return edits
