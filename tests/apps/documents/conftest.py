"""Reads made-up files the way a user does: through `read_document`."""

from collections.abc import Callable
from pathlib import Path

import pytest
from paper_pdf import Sheet, write_pdf

from deepseek.apps.documents.document import Document
from deepseek.apps.documents.reader import read_document


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Document]:
    """Writes pages (or text) to a file and reads it."""

    def read_sheets(*sheets: Sheet, title: str = "") -> Document:
        path = tmp_path / "paper.pdf"
        path.write_bytes(write_pdf(list(sheets), title=title))
        return read_document(path)

    return read_sheets


@pytest.fixture
def read_text(tmp_path: Path) -> Callable[[str, str], Document]:
    """Writes a text file with the given name and reads it."""

    def read_named(text: str, name: str = "notes.md") -> Document:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return read_document(path)

    return read_named
