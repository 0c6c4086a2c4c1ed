"""Text and Markdown files to documents. One page: such files have no others."""

import re
from pathlib import Path

from deepseek.apps.documents.assembly import PlacedBlock
from deepseek.apps.documents.blocks import BULLET
from deepseek.apps.documents.document import BlockKind, Document, Page, Span
from deepseek.apps.documents.headings import KNOWN, NUMBERED
from deepseek.apps.documents.structure import build_document
from deepseek.core.errors import DocumentError

PARAGRAPH = re.compile(r"[^\n]+(?:\n(?!\s*\n|#{1,6}\s|\s*[-*+]\s|\s*\d+[.)]\s)[^\n]+)*")


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
    blocks = [_block(match, is_markdown) for match in PARAGRAPH.finditer(text)]
    return build_document(
        digest=digest,
        source=str(path),
        kind="markdown" if is_markdown else "text",
        pages=[Page(1, text)],
        blocks=blocks,
        file_title="",
    )


def _block(match: "re.Match[str]", is_markdown: bool) -> PlacedBlock:
    text, start, end = match.group(), match.start(), match.end()
    hashes = re.match(r"(#{1,6})\s+", text) if is_markdown else None
    if hashes:
        level = len(hashes[1])
        span = Span(1, start + hashes.end(), end)
        return PlacedBlock("heading", [span], max(level - 1, 1), 20.0 - 2 * level)
    span = Span(1, start, end)
    bare = text.strip()
    numbered = NUMBERED.fullmatch(bare)
    is_short = "\n" not in bare and len(bare) < 100 and not bare.endswith((".", ",", ";"))
    if is_short and (KNOWN.fullmatch(bare) or numbered):
        level = numbered["number"].count(".") + 1 if numbered else 1
        return PlacedBlock("heading", [span], level, 12.0)
    kind: BlockKind = "list" if BULLET.match(bare) else "paragraph"
    if is_markdown and bare.startswith("|"):
        kind = "table"
    return PlacedBlock(kind, [span], 0, 10.0)
