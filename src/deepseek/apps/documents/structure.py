"""Sections, title, references, sentences and tables over placed blocks."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from deepseek.apps.documents.assembly import FLOWING, HAN, PlacedBlock
from deepseek.apps.documents.document import (
    Block,
    BlockKind,
    Document,
    Page,
    Section,
    SectionRole,
    Sentence,
    Span,
    Table,
)
from deepseek.apps.documents.headings import KNOWN, NUMBERED, role_of
from deepseek.apps.documents.sentences import MAX_CHARACTERS, split_sentences

ABSTRACT = re.compile(r"(abstract|摘\s*要|内容提要)\s*[.:：—–-]*\s*", re.IGNORECASE)
TABLE_CAPTION = re.compile(r"(table|tab\.|表)\s*", re.IGNORECASE)
NUMBER = re.compile(
    r"(\d{1,2}(\.\d{1,2})*|[A-Z]\.\d|[A-H]|[IVX]+)[.\s]|第|[一二三四五六七八九十]、|\d+[\u4e00-\u9fff]"
)
UNNUMBERED = re.compile(
    r"abstract|references|bibliography|acknowledg|appendi|supplement|limitation|ethic|broader"
    r"|conclusion|introduction|摘\s*要|参考文献|致\s*谢|附\s*录|结\s*论|引\s*言",
    re.IGNORECASE,
)
PROSE: tuple[BlockKind, ...] = ("paragraph", "list", "caption", "footnote")


def build_document(
    *,
    digest: str,
    source: str,
    kind: Literal["pdf", "text", "markdown"],
    pages: Sequence[Page],
    blocks: list[PlacedBlock],
    file_title: str,
    warnings: Sequence[str] = (),
) -> Document:
    """Everything above the placed blocks.

    Args:
        digest: SHA-256 of the source.
        source: Where it came from.
        kind: What it is.
        pages: Final pages.
        blocks: In reading order.
        file_title: Title in the file's properties, if any.
        warnings: What reading had to say.
    """
    title, title_index = _title(pages, blocks, file_title)
    sections, final = _sections(pages, blocks, title_index)
    return Document(
        id=digest,
        source=source,
        kind=kind,
        pages=tuple(pages),
        blocks=tuple(final),
        sentences=tuple(_sentences(pages, final)),
        sections=tuple(sections),
        tables=tuple(_tables(pages, blocks, final)),
        title=title,
        language=_language(pages),
        warnings=tuple(warnings),
    )


def _text(pages: Sequence[Page], spans: Sequence[Span]) -> str:
    return " ".join(pages[s.page - 1].text[s.start : s.end] for s in spans)


def _title(
    pages: Sequence[Page], blocks: list[PlacedBlock], file_title: str
) -> tuple[str, int | None]:
    """The largest text at the top of the first page with text; else the file's property."""
    first = next((b.spans[0].page for b in blocks), 1)
    top = [
        (i, b)
        for i, b in enumerate(blocks[:12])
        if b.spans[0].page == first and b.kind in ("heading", "paragraph")
    ]
    if top:
        index, best = max(top, key=lambda pair: (round(pair[1].size), -pair[0]))
        text = _text(pages, best.spans)
        if 4 <= len(text) <= 300 and not ABSTRACT.match(text):
            return text, index
    return file_title, None


def _sections(
    pages: Sequence[Page], blocks: list[PlacedBlock], title_index: int | None
) -> tuple[list[Section], list[Block]]:
    """Assign each block to a section; mark title and references."""
    first_page = blocks[0].spans[0].page if blocks else 1
    sections = [Section("", "front", 1, first_page)]
    headings = [_text(pages, b.spans) for b in blocks if b.kind == "heading"]
    is_numbered = sum(1 for text in headings if NUMBER.match(text)) >= 4
    has_abstract = any(ABSTRACT.match(text) for text in headings[:8])
    top = 0
    stack: list[tuple[int, SectionRole]] = []
    final: list[Block] = []
    for index, block in enumerate(blocks):
        text = _text(pages, block.spans)
        kind = block.kind
        role = sections[-1].role
        if index == title_index:
            final.append(Block("title", tuple(block.spans), 0))
            continue
        if kind == "heading":
            if title_index is not None and index < title_index:
                kind = "paragraph"
            elif role == "front" and not _opens_text(text, has_abstract):
                kind = "paragraph"  # authors and affiliations are often bold
            elif is_numbered and not NUMBER.match(text) and not UNNUMBERED.match(text):
                kind = "paragraph"  # where sections are numbered, the rest is words in figures
            elif not _follows(text, top):
                kind = "paragraph"  # an item of a list, or a line of output
            else:
                number = re.match(r"\d+", text)
                top = int(number[0]) if number else top
                stack = [entry for entry in stack if entry[0] < block.level]
                parent: SectionRole = stack[-1][1] if stack else "other"
                new_role = role_of(text, parent)
                stack.append((block.level, new_role))
                sections.append(Section(text, new_role, block.level, block.spans[0].page))
        elif role == "front" and kind in FLOWING and ABSTRACT.match(text) and len(text) > 80:
            sections.append(Section("Abstract", "abstract", 1, block.spans[0].page))
        elif role == "references" and kind in (*FLOWING, "equation", "footnote"):
            kind = "reference"
        final.append(Block(kind, tuple(block.spans), len(sections) - 1))
    return _with_methods(sections), final


def _with_methods(sections: list[Section]) -> list[Section]:
    """Sections named after their subject, between introduction and experiments, are the method."""
    roles = [section.role for section in sections]
    first = roles.index("introduction") if "introduction" in roles else 0
    later = [i for i, role in enumerate(roles) if i > first and role in ("experiments", "results")]
    end = later[0] if later else 0
    return [
        replace(section, role="method") if section.role == "other" and first < i < end else section
        for i, section in enumerate(sections)
    ]


def _follows(text: str, top: int) -> bool:
    """Whether a heading's number can come after a section with the number `top`."""
    number = re.match(r"(\d+)(\.\d+)?", text)
    if number is None:
        return True
    first = int(number[1])
    if number[2]:
        return first == top or first == top + 1
    return first == top + 1 or (top == 0 and first <= 1)


def _opens_text(text: str, has_abstract: bool) -> bool:
    """Whether a heading can be the first of a paper."""
    numbered = NUMBERED.fullmatch(text)
    if numbered and has_abstract:  # before the abstract only affiliations are numbered
        return KNOWN.fullmatch(numbered["title"].strip()) is not None
    return bool(NUMBER.match(text)) or role_of(text, "front") != "other"


def _sentences(pages: Sequence[Page], blocks: list[Block]) -> list[Sentence]:
    sentences: list[Sentence] = []
    for index, block in enumerate(blocks):
        if block.kind not in PROSE:
            continue
        text = _text(pages, block.spans)
        for start, end in split_sentences(text):
            if end - start > MAX_CHARACTERS or not re.search(
                r"\w{2}|[\u4e00-\u9fff]", text[start:end]
            ):
                continue
            spans = _spans_between(block.spans, start, end)
            sentences.append(Sentence(f"S{len(sentences) + 1}", spans, index))
    return sentences


def _spans_between(spans: Sequence[Span], start: int, end: int) -> tuple[Span, ...]:
    """Spans of a piece of the joined text of `spans`."""
    found = []
    offset = 0
    for span in spans:
        length = span.end - span.start
        low, high = max(start, offset), min(end, offset + length)
        if low < high:
            found.append(Span(span.page, span.start + low - offset, span.start + high - offset))
        offset += length + 1  # the space that joins two spans
    return tuple(found)


def _tables(pages: Sequence[Page], placed: list[PlacedBlock], final: list[Block]) -> list[Table]:
    tables = []
    for index, block in enumerate(placed):
        if block.kind == "table" and len(block.rows) >= 2:
            rows = tuple(tuple(row) for row in block.rows)
            tables.append(Table(_caption_near(pages, final, index), index, rows))
    return tables


def _caption_near(pages: Sequence[Page], blocks: list[Block], index: int) -> int | None:
    """The table caption right above or below, on the same page."""
    page = blocks[index].spans[0].page
    for distance in (1, 2, 3):
        for near in (index - distance, index + distance):
            if not 0 <= near < len(blocks) or blocks[near].spans[0].page != page:
                continue
            is_caption = blocks[near].kind == "caption"
            if is_caption and TABLE_CAPTION.match(_text(pages, blocks[near].spans)):
                return near
    return None


def _language(pages: Sequence[Page]) -> Literal["en", "zh"]:
    sample = "".join(page.text for page in pages[:20])[:50_000]
    letters = sum(c.isalpha() for c in sample) or 1
    return "zh" if len(HAN.findall(sample)) > 0.2 * letters else "en"
