"""Text and Markdown files to documents. One page: such files have no others."""

import re
from pathlib import Path

from deepseek.apps.documents.assembly import PlacedBlock
from deepseek.apps.documents.blocks import BULLET, looks_like_caption
from deepseek.apps.documents.document import BlockKind, Cell, Document, Page, Span
from deepseek.apps.documents.headings import CHINESE_NUMBERED, KNOWN, NUMBERED
from deepseek.apps.documents.structure import build_document
from deepseek.core.errors import DocumentError

PARAGRAPH = re.compile(r"[^\n]+(?:\n(?!\s*\n|\s*[-*+•]\s|\s*\d+[.)]\s)[^\n]+)*")
# In Markdown, code, headings and tables end a paragraph without an empty line.
MARKDOWN = re.compile(
    r"(?P<code>^(?P<fence>```+|~~~+)[^\n]*\n(?:.*?\n)??(?P=fence)[^\n]*$|^(?:```|~~~)[^\n]*\Z)"
    r"|(?P<heading>^#{1,6}[ \t]+[^\n]+)"
    r"|(?P<under>^[^\n]*\w[^\n]*\n(?:=+|-{2,})[ \t]*$)"
    r"|(?P<table>^[ \t]*\|[^\n]*(?:\n[ \t]*\|[^\n]*)*)"
    r"|(?P<text>[^\n]+(?:\n(?!\s*\n|#{1,6}\s|\s*[-*+]\s|\s*\d+[.)]\s|```|~~~|\s*\|)[^\n]+)*)",
    re.MULTILINE | re.DOTALL,
)
RULE_ROW = re.compile(r"\s*\|?(\s*:?-+:?\s*\|)+\s*(:?-+:?)?\s*")
CELL = re.compile(r"(?:\\\||[^|\n])+")


def read_plain(path: Path, digest: str, data: bytes) -> Document:
    """Read a text or Markdown file.

    Raises:
        DocumentError: It is no text, or holds none.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DocumentError(f"{path} is not UTF-8 text", "convert it, or name a PDF") from None
    if "\x00" in text:
        raise DocumentError(f"{path} is a binary file", "name a PDF, text or Markdown file")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise DocumentError(f"{path} is empty", "is it the right file?")
    is_markdown = path.suffix.lower() in (".md", ".markdown")
    pattern, block = (MARKDOWN, _markdown_block) if is_markdown else (PARAGRAPH, _text_block)
    blocks = [block(match) for match in pattern.finditer(text) if match.group().strip()]
    for number, placed in enumerate(blocks, start=1):
        placed.identity = number
    _link_captions(blocks)
    return build_document(
        digest=digest,
        source=str(path),
        kind="markdown" if is_markdown else "text",
        pages=[Page(1, text)],
        blocks=blocks,
        file_title="",
    )


def _text_block(match: "re.Match[str]") -> PlacedBlock:
    span = Span(1, match.start(), match.end())
    bare = match.group().strip()
    numbered = NUMBERED.fullmatch(bare) or CHINESE_NUMBERED.fullmatch(bare)
    is_short = "\n" not in bare and len(bare) < 100 and not bare.endswith((".", ",", ";", "。"))
    if is_short and (KNOWN.fullmatch(bare) or numbered):
        level = numbered["number"].rstrip(".").count(".") + 1 if numbered else 1
        return PlacedBlock("heading", [span], level, 12.0)
    kind: BlockKind = "list" if BULLET.match(bare) else "paragraph"
    if looks_like_caption(bare):
        kind = "caption"
    return PlacedBlock(kind, [span], 0, 10.0)


def _markdown_block(match: "re.Match[str]") -> PlacedBlock:
    text, start, end = match.group(), match.start(), match.end()
    if match["heading"]:
        marks = re.match(r"(#+)\s+", text)
        assert marks is not None
        title = re.sub(r"[ \t]+#+[ \t]*$", "", text)
        return _heading(len(marks[1]), Span(1, start + marks.end(), start + len(title)))
    if match["under"]:
        title, _, line = text.partition("\n")
        return _heading(1 if line[0] == "=" else 2, Span(1, start, start + len(title)))
    if match["code"]:
        return PlacedBlock("code", [Span(1, start, end)], 0, 10.0)
    if match["table"]:
        return PlacedBlock("table", [Span(1, start, end)], 0, 10.0, rows=_rows(text, start))
    return _text_block(match)


def _heading(level: int, span: Span) -> PlacedBlock:
    # The first level is the title's; sections begin at the second.
    return PlacedBlock("heading", [span], max(level - 1, 1), 20.0 - 2 * level)


def _rows(text: str, start: int) -> list[list[Cell]]:
    """The cells of a Markdown table, each with its place."""
    rows = []
    for line in re.finditer(r"[^\n]+", text):
        if RULE_ROW.fullmatch(line.group()):
            continue
        row, column = [], 0
        for match in CELL.finditer(line.group()):
            bare = match.group().strip()
            if not bare and match.start() == 0:
                continue  # indentation before the first bar
            if bare:
                at = start + line.start() + match.start() + match.group().index(bare)
                row.append(Cell(bare, Span(1, at, at + len(bare)), column))
            column += 1
        if row:
            rows.append(row)
    return rows


def _link_captions(blocks: list[PlacedBlock]) -> None:
    for i, block in enumerate(blocks):
        if block.kind == "table":
            near = [blocks[j] for j in (i - 1, i + 1) if 0 <= j < len(blocks)]
            captions = [other.identity for other in near if other.kind == "caption"]
            block.caption = captions[0] if captions else None
