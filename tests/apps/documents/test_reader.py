"""What is no paper, or an odd one: each gets a clear answer."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from paper_pdf import Sheet, write_pdf

from deepseek.apps.documents import glyphs, reader
from deepseek.apps.documents.document import Document
from deepseek.apps.documents.reader import read_document
from deepseek.core.errors import DocumentError

PAGES = 1_000


def full_sheet(mark: str = "", lines: int = 40) -> Sheet:
    sheet = Sheet()
    for i in range(lines):
        sheet.text(60, 150 + 14 * i, f"{mark} line {i} of a page with the usual amount of text.")
    return sheet


@pytest.mark.parametrize(
    ("name", "data", "says", "hint"),
    [
        ("empty.pdf", b"", "is empty", "fetch it again"),
        ("web.pdf", b"<!doctype html><p>Sign in", "is no PDF", "fetch it again"),
        ("head.pdf", b"%PDF-1.7\nnothing more", "no readable PDF", "fetch it again"),
        ("none.pdf", write_pdf([]), "no pages|no readable PDF", "fetch it again"),
        ("blank.pdf", write_pdf([Sheet()]), "has no text", "right file"),
        ("scan.pdf", write_pdf([Sheet(image=True)] * 3), "3 pages are images", "OCR"),
        ("secret.pdf", write_pdf([full_sheet()], encrypt=True), "password", "without password"),
        ("paper.docx", b"PK\x03\x04 and more", "unknown kind", "supported"),
        ("binary.txt", b"a\x00b", "binary", "name a PDF"),
        ("latin.txt", "Müller".encode("latin-1"), "not UTF-8", "convert"),
        ("white.md", b" \n\n ", "is empty", "right file"),
    ],
)
def test_refused(tmp_path: Path, name: str, data: bytes, says: str, hint: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DocumentError, match=says) as caught:
        read_document(path)
    assert str(path) in caught.value.message
    assert hint in caught.value.hint


def test_a_folder_a_missing_file_and_a_device(tmp_path: Path) -> None:
    for source, says in ((tmp_path, "no regular file"), (tmp_path / "gone.pdf", "cannot read")):
        with pytest.raises(DocumentError, match=says):
            read_document(source)
    with pytest.raises(DocumentError, match="no regular file"):
        read_document(os.devnull)
    with pytest.raises(DocumentError, match="cannot read"):
        read_document("a\x00b.pdf")


def test_a_pdf_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "download"
    path.write_bytes(write_pdf([full_sheet("Named")]))
    assert "Named line 39" in read_document(path).pages[0].text


def test_a_scanned_page_among_others_is_named(read: Callable[..., Document]) -> None:
    document = read(full_sheet("First"), Sheet(image=True), full_sheet("Third"))
    assert document.warnings == ("pages without text (scanned?), not read: 2",)
    assert len(document.pages) == 3
    assert document.pages[1].text == ""


def test_a_thousand_pages_with_progress(tmp_path: Path) -> None:
    path = tmp_path / "book.pdf"
    path.write_bytes(write_pdf([full_sheet(f"Page {i}", 5) for i in range(PAGES)]))
    told: list[tuple[int, int]] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    document = read_document(path, on_progress=lambda *place: told.append(place))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert told == [(i + 1, PAGES) for i in range(PAGES)]
    assert len(document.pages) == PAGES
    assert "Page 999 line 4" in document.pages[-1].text
    assert grown < 1 << 20, "in KiB: less than 1 GiB for 1,000 pages"


def test_too_many_pages(tmp_path: Path) -> None:
    path = tmp_path / "endless.pdf"
    path.write_bytes(write_pdf([Sheet()] * 5_001))
    with pytest.raises(DocumentError, match="5001 pages") as caught:
        read_document(path)
    assert "split" in caught.value.hint


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_BYTES", 10)
    path = tmp_path / "big.pdf"
    path.write_bytes(write_pdf([full_sheet()]))
    with pytest.raises(DocumentError, match="larger than 1 GB"):
        read_document(path)


def test_a_worker_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glyphs, "WALL_SECONDS", 0.01)
    path = tmp_path / "slow.pdf"
    path.write_bytes(write_pdf([full_sheet()] * 20))
    with pytest.raises(DocumentError, match="too much time or memory"):
        read_document(path)


def test_a_worker_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    """The limit is the child's own: it cannot take the program's memory."""
    path = tmp_path / "p.pdf"
    path.write_bytes(write_pdf([full_sheet()]))
    code = (
        "from deepseek.apps.documents import worker; worker.MEMORY_BYTES = 64 << 20; "
        f"worker.main(['glyphs', {str(path)!r}, {str(tmp_path / 'o.npz')!r}]); bytearray(1 << 30)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0


def test_rendering_a_page(tmp_path: Path) -> None:
    path = tmp_path / "p.pdf"
    path.write_bytes(write_pdf([full_sheet()]))
    target = tmp_path / "p.webp"
    glyphs.run_worker(["render", str(path), str(target), "1", "1.0"], path)
    assert target.read_bytes()[8:12] == b"WEBP"
