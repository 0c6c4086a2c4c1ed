"""What belongs to a figure or a table: the pieces around its caption, told from running text.

Lines are first cut into blocks by spacing, which breaks a table at its rules and takes a
figure's labels for paragraphs. From each caption one goes up or down until prose begins.
"""

import re
from collections import Counter

from deepseek.apps.documents.blocks import SENTENCE_END, WORD, RawBlock, block_text
from deepseek.apps.documents.columns import to_lines
from deepseek.apps.documents.headings import CAPTION
from deepseek.apps.documents.lines import Line

TABLE_GAP = 3.2  # in font sizes: what is farther from a table's last row is not part of it
MIN_PROSE_WORDS = 9
TABLE_NAMES = ("table", "tab.", "tab", "表")


def gather_floats(pages: list[list[RawBlock]], body_size: float) -> None:
    """Join the pieces of tables, link them to their captions and mark the text in figures.

    Args:
        pages: The blocks of each page in reading order; changed in place.
        body_size: The document's commonest font size.
    """
    _demote_mentions(pages, body_size)
    below = _captions_above(pages, body_size)
    for blocks in pages:
        for caption in [b for b in blocks if b.kind == "caption" and is_table_caption(b)]:
            _gather_table(blocks, caption, below, body_size)
        for caption in [b for b in blocks if b.kind == "caption" and not is_table_caption(b)]:
            _mark_figure(blocks, caption, body_size)


def is_table_caption(block: RawBlock) -> bool:
    """Whether a caption is a table's."""
    match = _caption_match(block)
    return match is not None and match[1].lower() in TABLE_NAMES


def _demote_mentions(pages: list[list[RawBlock]], body_size: float) -> None:
    """Take for text what only looks like a caption: "Table 2. We use …" among "Table 2: …"."""
    captions = [block for blocks in pages for block in blocks if block.kind == "caption"]
    marks = [(match[3].strip() if match else "") for match in map(_caption_match, captions)]
    if sum(mark in (":", "：") for mark in marks) <= 2 * marks.count("."):
        return
    for block, mark in zip(captions, marks, strict=True):
        if mark == "." and abs(block.lines[0].size - body_size) < 0.4 and len(block.lines) > 1:
            block.kind = "paragraph"


def _caption_match(block: RawBlock) -> "re.Match[str] | None":
    return CAPTION.match(block_text(block))


def _captions_above(pages: list[list[RawBlock]], body_size: float) -> bool:
    """Whether this document sets captions above its tables, by those that leave no doubt."""
    votes: Counter[bool] = Counter()
    for blocks in pages:
        for i, block in enumerate(blocks):
            if block.kind == "caption" and is_table_caption(block):
                up, down = (_pieces(blocks, i, step, body_size) for step in (-1, 1))
                if bool(up) != bool(down):
                    votes[bool(down)] += 1
    return votes[True] > votes[False]


def _gather_table(
    blocks: list[RawBlock], caption: RawBlock, prefers_below: bool, body_size: float
) -> None:
    at = next(i for i, block in enumerate(blocks) if block is caption)
    sides = [_pieces(blocks, at, step, body_size) for step in (-1, 1)]
    pieces = sides[prefers_below] or sides[not prefers_below]
    if not pieces:
        return
    lines = to_lines([run for piece in pieces for line in piece.lines for run in line.runs])
    first = min(i for i, block in enumerate(blocks) if any(block is p for p in pieces))
    table = blocks[first]
    blocks[:] = [b for b in blocks if b is table or not any(b is p for p in pieces)]
    table.kind, table.lines, table.level, table.caption = "table", lines, 0, caption


def _pieces(blocks: list[RawBlock], at: int, step: int, body_size: float) -> list[RawBlock]:
    """The blocks that follow a caption in one direction as far as the table goes."""
    found: list[RawBlock] = []
    near = blocks[at]
    i = at + step
    while 0 <= i < len(blocks):
        block = blocks[i]
        gap = (
            near.lines[0].top - block.lines[-1].bottom
            if step < 0
            else block.lines[0].top - near.lines[-1].bottom
        )
        if block.caption is not None or not _is_loose(block, body_size):
            break
        # A piece beside the last one (a cell in the other half of the page) has a negative gap.
        if gap > TABLE_GAP * body_size or gap < -3 * body_size:
            break
        found.append(block)
        near = block
        i += step
    while found and found[-1].kind != "table" and not _closes_table(found[-1], found[:-1]):
        found.pop()
    return found if any(piece.kind == "table" for piece in found) else []


def _closes_table(piece: RawBlock, nearer: list[RawBlock]) -> bool:
    """Whether the outermost piece is still the table's: a heading row, or a last short cell."""
    if not nearer or SENTENCE_END.search(block_text(piece)):
        return False
    inner = nearer[-1]
    gap = max(
        piece.lines[0].top - inner.lines[-1].bottom, inner.lines[0].top - piece.lines[-1].bottom
    )
    return gap < 1.8 * max(inner.lines[0].size, 6)


def _mark_figure(blocks: list[RawBlock], caption: RawBlock, body_size: float) -> None:
    """Mark what stands above a figure's caption as part of it, up to the next prose."""
    at = next(i for i, block in enumerate(blocks) if block is caption)
    left = min(line.left for line in caption.lines)
    right = max(line.right for line in caption.lines)
    left, right = min(left, caption.left), max(right, caption.right)
    for i in range(at - 1, -1, -1):
        block = blocks[i]
        middle = sum(line.left + line.right for line in block.lines) / (2 * len(block.lines))
        lone = len(block.lines) == 1 and i > 0 and _is_loose(blocks[i - 1], body_size)
        inside = left - body_size < middle < right + body_size
        above = block.lines[-1].bottom < caption.lines[0].top + body_size
        if not (inside and above and block.caption is None):
            return
        # A sentence alone among labels is an example in the figure.
        if not _is_loose(block, body_size) and not (lone and block.kind == "paragraph"):
            return
        block.kind, block.level = "figure", 0


def _is_loose(block: RawBlock, body_size: float) -> bool:
    """Whether a block is no running text: cells, labels, axes, a formula."""
    if block.kind in ("caption", "footnote", "code"):
        return False
    if block.kind in ("table", "equation", "figure"):
        return True
    text = block_text(block)
    if block.kind == "heading":
        return block.lines[0].size <= body_size - 0.9 and not re.match(r"\d+(\.\d+)*\.?\s", text)
    size = block.lines[0].size
    if all(_is_cellish(line, block, size) for line in block.lines):
        return not (block.kind == "list" and len(WORD.findall(text)) > MIN_PROSE_WORDS)
    words = len(WORD.findall(text))
    ends = SENTENCE_END.search(text) is not None
    if abs(size - body_size) < 0.4 and ends and abs(block.lines[0].left - block.left) < size:
        return False  # the end of a paragraph
    return words < MIN_PROSE_WORDS or (len(block.lines) == 1 and not ends)


def _is_cellish(line: Line, block: RawBlock, size: float) -> bool:
    """Whether a line has several cells, or begins far from the edge of the column."""
    return len(line.runs) > 1 or line.left > block.left + 3 * size
