"""arXiv ids and URLs to local files."""

import re
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path

from deepseek.core.errors import DocumentError

ARXIV = "https://arxiv.org/pdf/"
ARXIV_ID = re.compile(r"(?:arxiv:)?(\d{4}\.\d{4,5}(?:v\d+)?|[a-z-]+/\d{7}(?:v\d+)?)", re.IGNORECASE)
ARXIV_URL = re.compile(
    r"https?://(?:www\.)?arxiv\.org/(?:abs|pdf)/([^?#]+?)(?:\.pdf)?/?", re.IGNORECASE
)
MAX_BYTES = 200 << 20
TIMEOUT_SECONDS = 60


def url_of(source: str) -> str | None:
    """The address behind an arXiv id or URL; None for anything else."""
    page = ARXIV_URL.fullmatch(source)
    if page:
        return ARXIV + page[1]
    if re.match(r"https?://", source, re.IGNORECASE):
        return source
    named = ARXIV_ID.fullmatch(source)
    return ARXIV + named[1] if named else None


def download(url: str) -> Path:
    """Fetch a PDF into a temporary file, which the caller deletes.

    Raises:
        DocumentError: It cannot be reached, is too large or no PDF.
    """
    with tempfile.NamedTemporaryFile(prefix="paper-", suffix=".pdf", delete=False) as file:
        path = Path(file.name)
    try:
        _fetch(url, path)
    except (OSError, HTTPException, ValueError) as error:
        path.unlink(missing_ok=True)
        reason = getattr(error, "reason", error)
        raise DocumentError(
            f"{url} cannot be reached ({reason})", "go online, or name a local PDF file"
        ) from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _fetch(url: str, path: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "deepseek-papers"})
    size, head = 0, b""
    with (
        path.open("wb") as file,
        urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response,
    ):
        while piece := response.read(1 << 20):
            size += len(piece)
            head = head or piece[:1024]
            if size > MAX_BYTES:
                raise DocumentError(f"{url} is larger than 200 MB", "fetch it yourself")
            file.write(piece)
    if b"%PDF-" not in head:
        raise DocumentError(f"{url} is no PDF", "name the address of the PDF itself")
