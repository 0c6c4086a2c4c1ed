"""PDF files to documents."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from deepseek.apps.documents.accents import compose_accents
from deepseek.apps.documents.assembly import (
    PageWriter,
    PlacedBlock,
    count_words,
    merge_continued,
)
from deepseek.apps.documents.blocks import RawBlock, column_blocks
from deepseek.apps.documents.columns import reading_order
from deepseek.apps.documents.document import Document, Page
from deepseek.apps.documents.floats import gather_floats
from deepseek.apps.documents.furniture import drop_furniture
from deepseek.apps.documents.glyphs import PageGlyphs, read_glyphs
from deepseek.apps.documents.lines import Run, page_runs
from deepseek.apps.documents.structure import build_document
from deepseek.apps.documents.turning import layout_size, turned
from deepseek.core.errors import DocumentError

MIN_CHARACTERS = 50  # a page with fewer and an image is taken for a scan


def read_pdf(
    path: Path, digest: str, on_progress: Callable[[int, int], None] | None = None
) -> Document:
    """Read a PDF.

    Raises:
        DocumentError: It is encrypted, corrupt, has no pages or no text.
    """
    glyphs, file_title = read_glyphs(path, on_progress)
    if not glyphs:
        raise DocumentError(f"{path} has no pages", "fetch it again")
    warnings = _check_text(path, glyphs)
    runs = [page_runs(compose_accents(turned(page))) for page in glyphs]
    sizes = [layout_size(page) for page in glyphs]
    runs = drop_furniture([(r, height) for r, (_, height) in zip(runs, sizes, strict=True)])
    body_size = _body_size(runs)
    raw: list[list[RawBlock]] = []
    for number, (page_content, (width, height)) in enumerate(
        zip(runs, sizes, strict=True), start=1
    ):
        blocks = [
            block
            for column in reading_order(page_content, width)
            for block in column_blocks(column, number, body_size, height)
        ]
        # Footnotes are read after the page's text, not in the middle of it.
        raw.append(sorted(blocks, key=lambda b: b.kind == "footnote"))
    gather_floats(raw, body_size)
    pages, placed = _place(raw, glyphs)
    texts = {page.number: page.text for page in pages}
    return build_document(
        digest=digest,
        source=str(path),
        kind="pdf",
        pages=pages,
        blocks=merge_continued(placed, texts),
        file_title=file_title,
        warnings=warnings,
    )


def _place(
    raw: list[list[RawBlock]], glyphs: list[PageGlyphs]
) -> tuple[list[Page], list[PlacedBlock]]:
    words = count_words([block for page in raw for block in page])
    pages, placed = [], []
    for number, (blocks, page) in enumerate(zip(raw, glyphs, strict=True), start=1):
        writer = PageWriter(number, words)
        placed += [writer.write(block) for block in blocks]
        pages.append(writer.page(page.width, page.height, page.turn))
    return pages, placed


def _body_size(pages: list[list[Run]]) -> float:
    """The font size of most characters in lines of prose."""
    sizes: Counter[float] = Counter()
    for runs in pages:
        for run in runs:
            sizes[run.size] += len(run.text) if len(run.text) >= 40 else 1
    return sizes.most_common(1)[0][0] if sizes else 10.0


def _check_text(path: Path, glyphs: list[PageGlyphs]) -> list[str]:
    """Refuse a document without text; name the pages that seem to be scans."""
    scans = [
        number
        for number, page in enumerate(glyphs, start=1)
        if page.n_images and len(page.codes) < MIN_CHARACTERS
    ]
    total = sum(len(page.codes) for page in glyphs)
    if total < MIN_CHARACTERS:
        if scans:
            raise DocumentError(
                f"{path} has no text: its {len(glyphs)} pages are images (scanned?)",
                "run OCR on it first, e.g. ocrmypdf scan.pdf text.pdf",
            )
        raise DocumentError(f"{path} has no text", "is it the right file?")
    if not scans:
        return []
    listed = ", ".join(map(str, scans[:20])) + (" …" if len(scans) > 20 else "")
    return [f"pages without text (scanned?), not read: {listed}"]
