"""`read_document`: any supported source to a `Document`."""

import dataclasses
import hashlib
import stat
from collections.abc import Callable
from pathlib import Path

from deepseek.apps.documents.document import Document
from deepseek.apps.documents.fetch import download, url_of
from deepseek.core.errors import DocumentError

MAX_BYTES = 1 << 30
MAX_TEXT_BYTES = 50 << 20
TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown")


def read_document(
    source: str | Path, *, on_progress: Callable[[int, int], None] | None = None
) -> Document:
    """Read a PDF, text or Markdown file, an arXiv id or a URL of a PDF.

    Args:
        source: A path, `1706.03762`, `arXiv:1706.03762v7`, or an address.
        on_progress: Told of pages read and pages in all.

    Raises:
        DocumentError: It is missing, unreachable, encrypted, corrupt, empty or has no text.
        MissingDependencyError: It is a PDF and pypdfium2 is not installed.
    """
    path = Path(source).expanduser()
    url = url_of(str(source)) if not path.exists() else None
    if url is None:
        return _read(path, on_progress)
    fetched = download(url)
    try:
        return dataclasses.replace(_read(fetched, on_progress), source=str(source))
    finally:
        fetched.unlink(missing_ok=True)


def _read(path: Path, on_progress: Callable[[int, int], None] | None) -> Document:
    size = _checked_size(path)
    try:
        with path.open("rb") as file:
            head = file.read(1024)
            digest = hashlib.sha256(head)
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise DocumentError(f"cannot read {path}: {error.strerror}", "check the file") from None
    if b"%PDF-" in head:
        from deepseek.apps.documents.pdf import read_pdf

        return read_pdf(path, digest.hexdigest(), on_progress)
    if path.suffix.lower() == ".pdf":
        raise DocumentError(f"{path} is no PDF", "it does not begin like one: fetch it again")
    if path.suffix.lower() not in TEXT_SUFFIXES:
        raise DocumentError(
            f"{path} is of an unknown kind", f"supported: .pdf, {', '.join(TEXT_SUFFIXES)}"
        )
    if size > MAX_TEXT_BYTES:
        raise DocumentError(f"{path} is larger than 50 MB", "split it")
    from deepseek.apps.documents.plain import read_plain

    return read_plain(path, digest.hexdigest(), path.read_bytes())


def _checked_size(path: Path) -> int:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DocumentError(
            f"cannot read {path}: {reason}", "name a PDF, text or Markdown file, or an arXiv id"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise DocumentError(f"{path} is no regular file", "name a file")
    if status.st_size == 0:
        raise DocumentError(f"{path} is empty", "fetch it again")
    if status.st_size > MAX_BYTES:
        raise DocumentError(f"{path} is larger than 1 GB", "split it")
    return status.st_size
