"""The document over its placed blocks: title, sections, sentences and tables."""

import re
from collections.abc import Sequence
from typing import Literal

from deepseek.apps.documents.assembly import HAN, PlacedBlock, text_of
from deepseek.apps.documents.document import (
    Block,
    BlockKind,
    Document,
    Page,
    Sentence,
    Span,
    Table,
)
from deepseek.apps.documents.headings import KNOWN
from deepseek.apps.documents.sections import ABSTRACT, divide
from deepseek.apps.documents.sentences import MAX_CHARACTERS, split_sentences

TITLE = re.compile(r"[\w“\"'‘(《「]")
LEADERS = re.compile(r"(\.\s?){6,}|…{3,}")  # from a title to its page in a table of contents
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
    sections, final, index_of = divide(pages, blocks, title_index, are_marked=kind == "markdown")
    return Document(
        id=digest,
        source=source,
        kind=kind,
        pages=tuple(pages),
        blocks=tuple(final),
        sentences=tuple(_sentences(pages, final)),
        sections=tuple(sections),
        tables=tuple(_tables(blocks, final, index_of)),
        title=title,
        language=_language(pages),
        warnings=tuple(warnings),
    )


def _title(
    pages: Sequence[Page], blocks: list[PlacedBlock], file_title: str
) -> tuple[str, int | None]:
    """The largest text at the top of the first page with text; else the file's property."""
    first = next((b.spans[0].page for b in blocks), 1)
    top: list[tuple[int, PlacedBlock]] = []
    for i, block in enumerate(blocks[:12]):
        if block.spans[0].page != first or (top and _opens_body(text_of(pages, block.spans))):
            break
        if block.kind in ("heading", "paragraph") and TITLE.match(text_of(pages, block.spans)):
            top.append((i, block))
    if top:
        index, best = max(top, key=lambda pair: (round(pair[1].size), -pair[0]))
        text = text_of(pages, best.spans)
        is_sentence = best.kind != "heading" and text.endswith((".", "。", ",", ";", ":"))
        if 4 <= len(text) <= 300 and not ABSTRACT.match(text) and not is_sentence:
            return text, index
    return file_title, None


def _opens_body(text: str) -> bool:
    """Whether a block is the abstract, the introduction or a first paragraph of prose."""
    return len(text) > 400 or KNOWN.fullmatch(re.sub(r"^1\.?\s+", "", text)) is not None


def _sentences(pages: Sequence[Page], blocks: list[Block]) -> list[Sentence]:
    sentences: list[Sentence] = []
    for index, block in enumerate(blocks):
        if block.kind not in PROSE:
            continue
        text = text_of(pages, block.spans)
        for start, end in split_sentences(text):
            sentence = text[start:end]
            is_words = re.search(r"\w{2}|[\u4e00-\u9fff]", sentence) is not None
            if end - start > MAX_CHARACTERS or not is_words or LEADERS.search(sentence):
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


def _tables(placed: list[PlacedBlock], final: list[Block], index_of: list[int]) -> list[Table]:
    """Tables with a caption, and others that are clearly tables."""
    at = {block.identity: index for block, index in zip(placed, index_of, strict=True)}
    tables = []
    for block, index in zip(placed, index_of, strict=True):
        if final[index].kind != "table" or len(block.rows) < 2:
            continue
        rows = tuple(tuple(row) for row in block.rows)
        columns = {cell.column for row in rows for cell in row}
        if block.caption is not None or (len(rows) >= 3 and len(columns) >= 2):
            caption = at.get(block.caption) if block.caption is not None else None
            tables.append(Table(caption, index, rows))
    return tables


def _language(pages: Sequence[Page]) -> Literal["en", "zh"]:
    sample = "".join(page.text for page in pages[:20])[:50_000]
    letters = sum(c.isalpha() for c in sample) or 1
    return "zh" if len(HAN.findall(sample)) > 0.2 * letters else "en"
