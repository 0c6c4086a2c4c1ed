"""arXiv ids and addresses, against a local server; the network is never asked."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from paper_pdf import Sheet, write_pdf

from deepseek.apps.documents import fetch
from deepseek.apps.documents.reader import read_document
from deepseek.core.errors import DocumentError


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("1706.03762", "https://arxiv.org/pdf/1706.03762"),
        ("arXiv:1706.03762v7", "https://arxiv.org/pdf/1706.03762v7"),
        ("cs/0112017", "https://arxiv.org/pdf/cs/0112017"),
        ("https://arxiv.org/abs/1706.03762v7", "https://arxiv.org/pdf/1706.03762v7"),
        ("http://www.arxiv.org/pdf/1706.03762.pdf", "https://arxiv.org/pdf/1706.03762"),
        ("https://example.org/paper.pdf", "https://example.org/paper.pdf"),
        ("paper.pdf", None),
        ("1706.037", None),
        ("notes/today.md", None),
    ],
)
def test_url_of(source: str, url: str | None) -> None:
    assert fetch.url_of(source) == url


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        sheet = Sheet()
        for i in range(4):
            sheet.text(80, 100 + 14 * i, f"Line {i} of a paper that was fetched from a server.")
        body = write_pdf([sheet]) if "paper" in self.path else b"<html>sign in</html>"
        self.send_response(404 if "gone" in self.path else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Pages) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_paper_is_fetched_and_named_by_its_source(server: str) -> None:
    document = read_document(f"{server}/paper")
    assert document.source == f"{server}/paper"
    assert "fetched from a server" in document.pages[0].text


def test_an_arxiv_id_is_fetched(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "ARXIV", f"{server}/paper/")
    assert read_document("1706.03762").source == "1706.03762"


@pytest.mark.parametrize(("path", "says"), [("/login", "no PDF"), ("/gone", "cannot be reached")])
def test_what_is_no_paper(server: str, path: str, says: str) -> None:
    with pytest.raises(DocumentError, match=says):
        read_document(server + path)


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "ARXIV", "http://127.0.0.1:1/")
    with pytest.raises(DocumentError, match="cannot be reached") as caught:
        read_document("1706.03762")
    assert "go online" in caught.value.hint


def test_a_download_that_is_too_large(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 100)
    with pytest.raises(DocumentError, match="larger"):
        read_document(f"{server}/paper")
