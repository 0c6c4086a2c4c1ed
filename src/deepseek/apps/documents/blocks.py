"""Lines to blocks: paragraphs, headings, captions, lists, tables, equations, footnotes."""

import re
from dataclasses import dataclass
from statistics import median

from deepseek.apps.documents.columns import Column
from deepseek.apps.documents.document import BlockKind
from deepseek.apps.documents.headings import CAPTION, heading_level
from deepseek.apps.documents.lines import Line

BULLET = re.compile(
    r"([•‣◦▪●○∙·–—*-]|\(?\d{1,2}[.)]|\(?[a-z][.)]|[（(][一二三四五六七八九十\d]+[)）])\s+\S"
)
REFERENCE = re.compile(r"\[\d{1,3}\]|\d{1,3}\.\s+[A-Z]")
SENTENCE_END = re.compile(r"[.!?:;。！？：；][\"'”’)\]]*$")
NEW_NUMBER = re.compile(r"(\d+(\.\d+)*|[A-Z](\.\d+)*)\.?\s")
CHAPTER = re.compile(r"(chapter|part|appendix)\s+([A-Z]|\d{1,2}|[IVX]+)", re.IGNORECASE)
RELATION = re.compile(r"[=≈∝≤≥∼←→∈]")
EQUATION_NUMBER = re.compile(r"\(\d{1,3}(\.\d{1,2})?[a-z]?\)$")
WORD = re.compile(r"[A-Za-z]{3,}|[\u4e00-\u9fff]{2,}")


@dataclass(slots=True)
class RawBlock:
    """Lines that belong together, before the page's text is fixed."""

    kind: BlockKind
    lines: list[Line]
    page: int
    level: int = 0
    """Depth, for a heading."""
    left: float = 0.0
    """Left edge of the column."""
    right: float = 0.0
    """Right edge of the column."""
    caption: "RawBlock | None" = None
    """The caption, for a table that has one."""


def column_blocks(
    column: Column, page: int, body_size: float, page_height: float
) -> list[RawBlock]:
    """Cut one column into blocks and say what each is."""
    gaps = [b.top - a.bottom for a, b in zip(column.lines, column.lines[1:], strict=False)]
    usual = median([g for g in gaps if -body_size < g < 2 * body_size] or [0.2 * body_size])
    blocks: list[RawBlock] = []
    for i, line in enumerate(column.lines):
        gap = gaps[i - 1] if i else 2 * body_size
        level = heading_level(line, body_size, (gap - usual) / body_size)
        following = column.lines[i + 1] if i + 1 < len(column.lines) else None
        if level and following and _runs_on(line, following, column):
            level = 0
        previous = blocks[-1] if blocks else None
        if previous is None or _begins(previous, line, level, gap - usual, column, body_size):
            kind: BlockKind = "heading" if level else "paragraph"
            blocks.append(RawBlock(kind, [line], page, level, column.left, column.right))
        else:
            previous.lines.append(line)
    for block in blocks:
        if block.kind != "heading" or all(line.mono for line in block.lines):
            block.kind = _kind(block, page, body_size, page_height)
    return _joined(blocks)


def block_text(block: RawBlock) -> str:
    """The lines' texts, for patterns; not the document's final text."""
    return " ".join(line.text for line in block.lines)


def _begins(
    block: RawBlock, line: Line, level: int, extra: float, column: Column, body_size: float
) -> bool:
    """Whether a line begins a new block after `block`."""
    last = block.lines[-1]
    size = max(line.size, 4.0)
    if block.kind == "heading":
        if CHAPTER.fullmatch(last.text) and line.size >= body_size + 0.9 and extra < 4 * line.size:
            return False  # the chapter's title below its number
        # A heading of two lines: the first is full, same look, close together, no new number.
        is_full = last.right > column.right - 7 * size or line.size >= body_size + 2.5
        capitals = last.text.isupper() and line.text.isupper()  # small ones have two sizes
        same = abs(last.size - line.size) < (4 if capitals else 0.6) and last.bold == line.bold
        strong = line.bold or line.size >= body_size + 0.9
        return not (
            is_full and same and strong and extra < 0.8 * size and not NEW_NUMBER.match(line.text)
        )
    if level:
        return True
    text = line.text
    is_code = all(other.mono for other in block.lines)
    if is_code != line.mono:
        # Words of code within a paragraph stay in it.
        return is_code or extra > 0.1 * size or last.right < column.right - 2 * size
    if is_code:
        return extra > 1.5 * size
    if extra > 0.45 * size or abs(last.size - line.size) > 0.9:
        return True
    if looks_like_caption(text):
        return not (_goes_on(last, column) and extra < 0.35 * size)
    if looks_like_caption(block.lines[0].text) and len(line.runs) == 1 and extra < 0.3 * size:
        return False  # its lines may be centred
    if BULLET.match(text) or REFERENCE.match(text):
        return last.right < column.right - 2 * size or SENTENCE_END.search(last.text) is not None
    if (len(line.runs) > 1) != (len(last.runs) > 1):
        is_table = _is_row(line) and _is_row(last)
        return not (is_table or _is_run_in(last, line, column) or _is_stretched(last, line, column))
    first = block.lines[0]
    hanging = len(block.lines) > 1 and block.lines[1].left > first.left + 0.6 * size
    if hanging:
        return line.left < last.left - 0.6 * size and len(line.runs) == 1
    if line.left > last.left + 0.7 * size and len(line.runs) == 1:
        ended = SENTENCE_END.search(last.text) is not None or last.right < column.right - 2 * size
        return ended and line.left > column.left + 0.5 * size
    if last.right < column.right - 4 * size and SENTENCE_END.search(last.text):
        return abs(line.left - column.left) < 0.5 * size or line.left > last.left
    return False


def _goes_on(line: Line, column: Column) -> bool:
    """Whether a line ends inside a sentence: "… are shown in", before "Table 2."."""
    return line.right > column.right - 1.5 * line.size and not SENTENCE_END.search(line.text)


def _runs_on(line: Line, following: Line, column: Column) -> bool:
    """Whether a line that looks like a heading is the bold beginning of a paragraph."""
    fills = line.right > column.right - 1.5 * line.size and line.left < column.left + line.size
    goes_on = following.text[0].islower() or following.text[0].isdigit()
    return fills and goes_on and not following.bold


def _is_run_in(first: Line, second: Line, column: Column) -> bool:
    """Whether a wide space only sets off the bold first words of a paragraph ("Results We")."""
    if len(first.runs) != 2 or len(second.runs) != 1:
        return False
    head, rest = first.runs
    wide = second.right - second.left > 0.6 * (column.right - column.left)
    fills = first.right > column.right - 2 * first.size and head.left < column.left + head.size
    return wide and fills and rest.left - head.right < 4 * head.size and second.text[0].islower()


def _is_stretched(first: Line, second: Line, column: Column) -> bool:
    """Whether justification alone made the gaps in one of two lines of prose."""
    for line in (first, second):
        gaps = [b.left - a.right for a, b in zip(line.runs, line.runs[1:], strict=False)]
        letters = sum(c.isalpha() for c in line.text)
        if max(gaps, default=0) > 2.5 * line.size or letters < 0.6 * len(
            line.text.replace(" ", "")
        ):
            return False
    size = first.size
    fills = first.right > column.right - size and first.left < column.left + 2.2 * size
    return fills and second.left < column.left + 2.2 * size


def looks_like_caption(text: str) -> bool:
    """Whether a line is "Figure 1: …" or "Table 2. …", not "Table 2 summarizes our results"."""
    match = CAPTION.match(text)
    if match is None:
        return False
    rest = text[match.end() :].strip()
    return (
        match[3].strip() != ""
        or not rest
        or (rest[0].isupper() and match[1][0].isupper())
        or "\u4e00" <= rest[0] <= "\u9fff"
    )


def _is_row(line: Line) -> bool:
    """Whether a line could be a table's row: several cells, or mostly figures."""
    letters = sum(c.isalpha() for c in line.text)
    digits = sum(c.isdigit() for c in line.text)
    return len(line.runs) > 1 or digits > letters


def _kind(block: RawBlock, page: int, body_size: float, page_height: float) -> BlockKind:
    text = block_text(block).strip()
    if looks_like_caption(text):
        return "caption"
    if all(line.mono for line in block.lines):
        return "code"
    size = block.lines[0].size
    low = block.lines[0].top > 0.65 * page_height
    marked = re.match(r"[∗*†‡§¶♮♯]|\d{1,2}\s*[A-Zh\u4e00-\u9fff]", text) is not None
    if low and size <= body_size - 1 and marked:
        return "footnote"
    if page == 1 and block.lines[0].top > 0.84 * page_height and size <= body_size - 0.9:
        return "footnote"  # where and when it was published
    words = WORD.findall(text)
    characters = len(text.replace(" ", "")) or 1
    prose = sum(map(len, words)) / characters
    rows = sum(1 for line in block.lines if len(line.runs) > 1)
    if rows and all(len(x.runs) < 4 and EQUATION_NUMBER.search(x.text) for x in block.lines[-1:]):
        return "equation"
    if rows >= 2 and rows >= 0.5 * len(block.lines):
        return "paragraph" if prose > 0.6 and _is_justified(block) else "table"
    if len(block.lines) <= 4 and rows < 2 and _is_formula(block, text):
        return "equation"
    if prose < 0.45 and len(block.lines) <= 6 and rows < 2:
        return "table" if sum(c.isdigit() for c in text) > 0.5 * characters else "equation"
    if rows and prose < 0.6:
        return "table"
    return "list" if BULLET.match(text) else "paragraph"


def _is_justified(block: RawBlock) -> bool:
    """Whether all lines but the last reach from edge to edge, with no gap as wide as a table's."""
    lines, size = block.lines, block.lines[0].size
    for line in lines:
        gaps = [b.left - a.right for a, b in zip(line.runs, line.runs[1:], strict=False)]
        if max(gaps, default=0) > 2.5 * size or len(line.runs) > 4:
            return False
    return all(x.left < block.left + 2 * size and x.right > block.right - size for x in lines[:-1])


def _is_formula(block: RawBlock, text: str) -> bool:
    """Whether a block set off from the column's edge has signs of relation and few words."""
    first = block.lines[0]
    if not RELATION.search(text) or first.left < block.left + 0.8 * first.size:
        return False
    tokens = text.split()
    words = sum(1 for token in tokens if re.fullmatch(r"[A-Za-z][a-z]+[,.;:]?", token))
    return words < 0.4 * len(tokens)


def _joined(blocks: list[RawBlock]) -> list[RawBlock]:
    """Join tables that a header row or a rule cut into pieces."""
    joined: list[RawBlock] = []
    for block in blocks:
        last = joined[-1] if joined else None
        if last and block.kind == last.kind == "table":
            gap = block.lines[0].top - last.lines[-1].bottom
            if gap < 1.6 * max(block.lines[0].size, 6):
                last.lines += block.lines
                continue
        joined.append(block)
    return joined
