"""From classified lines to the document's final text: hyphens joined, every character placed."""

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from deepseek.apps.documents.blocks import SENTENCE_END, RawBlock
from deepseek.apps.documents.document import BlockKind, Cell, Page, Span
from deepseek.apps.documents.lines import HYPHEN, Box, Line

FLOATS = ("caption", "table", "footnote", "equation")
FLOWING = ("paragraph", "list")
NOWHERE: Box = (float("nan"),) * 4
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


class PageWriter:
    """Collects a page's final text and the box of each character."""

    def __init__(self, number: int, words: Counter[str]) -> None:
        self.number = number
        self._words = words
        self._text: list[str] = []
        self._boxes: list[Box] = []

    def write(self, block: RawBlock) -> PlacedBlock:
        """Append a block."""
        if self._text:
            self._put("\n", None)
        start = len(self._text)
        rows = []
        for i, line in enumerate(block.lines):
            if i:
                self._between(block.lines[i - 1], line, is_table=block.kind == "table")
            cells = self._line(line, is_last=i == len(block.lines) - 1)
            rows.append(cells)
        span = Span(self.number, start, len(self._text))
        placed = PlacedBlock(block.kind, [span], block.level, block.lines[0].size)
        if block.kind == "table":
            text = "".join(self._text)
            placed.rows = [[Cell(text[s.start : s.end], s) for s in row] for row in rows]
        return placed

    def page(self, width: float, height: float) -> Page:
        """The finished page."""
        boxes = np.array(self._boxes, np.float32).reshape(-1, 4)
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

    def _between(self, before: Line, after: Line, is_table: bool) -> None:
        """What joins two lines: nothing, a space, or a line break in tables."""
        if is_table:
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
        # Never seen otherwise: compounds of two whole words keep their hyphen.
        return not (self._words[left] > 1 and self._words[right] > 1)


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
        or bool(HAN.match(begin) and HAN.match(end[-1]))
    )
