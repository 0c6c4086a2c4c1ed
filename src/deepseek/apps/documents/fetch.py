"""arXiv ids and URLs to local files."""

import re
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from deepseek.core.errors import DocumentError

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
        return f"https://arxiv.org/pdf/{page[1]}"
    if re.match(r"https?://", source, re.IGNORECASE):
        return source
    named = ARXIV_ID.fullmatch(source)
    return f"https://arxiv.org/pdf/{named[1]}" if named else None


def download(url: str) -> Path:
    """Fetch a PDF into a temporary file, which the caller deletes.

    Raises:
        DocumentError: It cannot be reached, is too large or no PDF.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "deepseek-papers"})
    handle = tempfile.NamedTemporaryFile(prefix="paper-", suffix=".pdf", delete=False)  # noqa: SIM115
    path = Path(handle.name)
    try:
        with handle, urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            size = 0
            while piece := response.read(1 << 20):
                size += len(piece)
                if size > MAX_BYTES:
                    raise DocumentError(f"{url} is larger than 200 MB", "fetch it yourself")
                handle.write(piece)
        with path.open("rb") as file:
            if b"%PDF-" not in file.read(1024):
                raise DocumentError(f"{url} is no PDF", "name the address of the PDF itself")
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, urllib.error.URLError | OSError):
            reason = getattr(error, "reason", error)
            raise DocumentError(
                f"{url} cannot be reached ({reason})", "go online, or name a local PDF file"
            ) from None
        raise
    return path
