"""From classified lines to the document's final text: hyphens joined, every character placed."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deepseek.apps.documents.blocks import SENTENCE_END, RawBlock
from deepseek.apps.documents.cells import align_cells
from deepseek.apps.documents.document import BlockKind, Cell, Page, Span
from deepseek.apps.documents.lines import HYPHEN, Box, Line
from deepseek.apps.documents.turning import layout_of, turn_boxes

FLOATS = ("caption", "table", "figure", "code", "footnote", "equation")
LINED = ("table", "code")  # kinds that keep their line breaks
FLOWING = ("paragraph", "list")
NOWHERE: Box = (float("nan"),) * 4
# No sentence ends with such a word, whatever follows.
UNFINISHED = re.compile(
    r"\b(a|an|the|of|and|or|with|by|in|is|are|was|were|to|as|that|which|for|on|at|from|than|our"
    r"|their|its|this|these|between|into|we|et al\.|Table|Tab\.|Figure|Fig\.|Section|Equation)$"
)
HAN = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")


@dataclass(slots=True)
class PlacedBlock:
    """A block whose text is fixed."""

    kind: BlockKind
    spans: list[Span]
    level: int
    size: float
    rows: list[list[Cell]] = field(default_factory=list)
    """Cells, for a table."""
    caption: int | None = None
    """`identity` of the caption, for a table that has one."""
    indent: float = 0.0
    """How far the first line begins from the column's left edge, in font sizes."""
    identity: int = 0
    """Distinguishes the block from all others of the document."""


class PageWriter:
    """Collects a page's final text and the box of each character."""

    def __init__(self, number: int, words: Counter[str]) -> None:
        self.number = number
        self._words = words
        self._text: list[str] = []
        self._boxes: list[Box] = []

    def write(self, block: RawBlock) -> PlacedBlock:
        """Append a block: its final characters with their boxes, and a table's cells."""
        if self._text:
            self._put("\n", None)
        start = len(self._text)
        places = align_cells(block.lines) if block.kind == "table" else []
        rows = []
        for i, line in enumerate(block.lines):
            if i:
                self._between(block.lines[i - 1], line, keeps_lines=block.kind in LINED)
            cells = self._line(line, is_last=i == len(block.lines) - 1)
            rows.append(cells)
        first = block.lines[0]
        placed = PlacedBlock(
            block.kind,
            [Span(self.number, start, len(self._text))],
            block.level,
            first.size,
            caption=id(block.caption) if block.caption else None,
            indent=(first.left - block.left) / max(first.size, 1.0),
            identity=id(block),
        )
        placed.rows = [
            [
                Cell("".join(self._text[span.start : span.end]), span, *place)
                for span, place in zip(spans, row, strict=True)
            ]
            for spans, row in zip(rows, places, strict=bool(places))
        ]
        return placed

    def page(self, width: float, height: float, turn: int = 0) -> Page:
        """The finished page, its boxes turned back to how the page is shown."""
        boxes = np.array(self._boxes, np.float32).reshape(-1, 4)
        boxes = turn_boxes(boxes, -turn % 4, *layout_of(width, height, turn))
        return Page(self.number, "".join(self._text), width, height, boxes)

    def _put(self, character: str, box: Box | None) -> None:
        self._text.append(character)
        self._boxes.append(box or NOWHERE)

    def _line(self, line: Line, is_last: bool) -> list[Span]:
        cells = []
        for i, run in enumerate(line.runs):
            if i:
                self._put(" ", None)
            start = len(self._text)
            final = i == len(line.runs) - 1
            for j, (character, box) in enumerate(zip(run.text, run.boxes, strict=True)):
                if character != HYPHEN:
                    self._put(character, box)
                elif final and j == len(run.text) - 1 and is_last:
                    self._put("-", box)  # nothing follows to join with
                elif not (final and j == len(run.text) - 1):
                    continue  # a soft hyphen inside a line is not printed
                else:
                    self._put("-", box)
            cells.append(Span(self.number, start, len(self._text)))
        return cells

    def _between(self, before: Line, after: Line, keeps_lines: bool) -> None:
        """What joins two lines: nothing, a space, or a line break in tables and code."""
        if keeps_lines:
            self._put("\n", None)
            return
        if self._text and self._text[-1] == "-" and after.text[:1].isalpha():
            if self._is_broken_word(before.text, after.text):
                self._text.pop()
                self._boxes.pop()
            return
        if self._text and HAN.match(self._text[-1]) and HAN.match(after.text):
            return
        self._put(" ", None)

    def _is_broken_word(self, before: str, after: str) -> bool:
        """Whether the hyphen at a line's end is there for the line's sake only."""
        head = re.search(r"([\w-]*\w)[-\x02]$", before)
        tail = re.match(r"\w+", after)
        if head is None or tail is None or after[:1].isupper():
            return False
        left, right = head[1].lower(), tail[0].lower()
        joined, hyphened = self._words[left.split("-")[-1] + right], self._words[f"{left}-{right}"]
        if joined or hyphened:
            return joined >= hyphened
        if "-" in left:  # "state-of-the-" begins a compound
            return False
        # Never seen otherwise: compounds of two whole words keep their hyphen.
        return not (self._words[left] > 1 and self._words[right] > 1)


def text_of(pages: Sequence[Page], spans: Sequence[Span]) -> str:
    """The text of spans, in order; parts that were apart are joined by a space."""
    return " ".join(pages[s.page - 1].text[s.start : s.end] for s in spans)


def count_words(blocks: list[RawBlock]) -> Counter[str]:
    """How often each word and hyphenated word stands inside a line."""
    words: Counter[str] = Counter()
    for block in blocks:
        for line in block.lines:
            tokens = re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", line.text.lower())
            words.update(tokens)
            words.update(part for token in tokens if "-" in token for part in token.split("-"))
    return words


def merge_continued(blocks: list[PlacedBlock], text_of: dict[int, str]) -> list[PlacedBlock]:
    """Join paragraphs that go on after a column, page, figure or footnote.

    Args:
        blocks: In reading order.
        text_of: Each page's text by its number.
    """
    merged: list[PlacedBlock] = []
    open_block: PlacedBlock | None = None
    for block in blocks:
        if block.kind in FLOWING:
            if open_block is not None and _continues(open_block, block, text_of):
                open_block.spans += block.spans
                continue
            open_block = block
        elif block.kind not in FLOATS:
            open_block = None
        merged.append(block)
    return merged


def _continues(before: PlacedBlock, after: PlacedBlock, text_of: dict[int, str]) -> bool:
    last, first = before.spans[-1], after.spans[0]
    end = text_of[last.page][last.start : last.end].rstrip()
    begin = text_of[first.page][first.start : first.end].lstrip()
    if not end or not begin or SENTENCE_END.search(end) or abs(before.size - after.size) > 0.9:
        return False
    if first.page - last.page > 1:
        return False
    return (
        begin[0].islower()
        or end.endswith((",", "-"))
        or UNFINISHED.search(end) is not None
        or bool(HAN.match(begin) and HAN.match(end[-1]))
    )
