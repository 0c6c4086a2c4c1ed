"""A hub of one repository on this machine: real HTTP, with faults on demand."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40


@dataclass
class Hub:
    """What the hub holds and how it misbehaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    listing: dict[str, Any] | bytes | None = None
    """What the API answers instead of the truth."""
    break_after: int | None = None
    """Close each connection after this many bytes of a body."""
    n_breaks: int = 0
    """How many connections do so; the others are good."""
    ranges: bool = True
    """Whether byte ranges are honoured."""
    extra: bytes = b""
    """Bytes that are sent behind the end of each file, without a length."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Path, range and authorisation of each request."""
    address: str = ""

    def describe(self) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        for name, data in self.files.items():
            row = {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
            if name.endswith(".safetensors"):
                row["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            rows.append(row)
        return {"sha": COMMIT, "siblings": rows, "tags": ["license:mit"]}


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def serve(hub: Hub) -> ThreadingHTTPServer:
    """Start the server on a free port of the loopback address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.requests.append(
                (
                    self.path,
                    self.headers.get("Range", ""),
                    self.headers.get("Authorization", ""),
                )
            )
            prefix = f"/owner/tiny/resolve/{COMMIT}/"
            known = ("/api/models/owner/tiny/revision/", "/api/datasets/owner/tiny/revision/")
            path = self.path.removeprefix("/datasets")
            if self.path.startswith(known):
                listing = hub.describe() if hub.listing is None else hub.listing
                body = listing if isinstance(listing, bytes) else json.dumps(listing).encode()
                self._send(200, body)
            elif path.startswith(prefix) and path[len(prefix) :] in hub.files:
                self._send_file(hub.files[path[len(prefix) :]])
            else:
                self._send(404, b"")

        def _send_file(self, data: bytes) -> None:
            start = 0
            if hub.ranges and self.headers.get("Range"):
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            body = data[start:]
            if hub.extra:
                self.send_response(206 if start else 200)
                self.end_headers()
                self.wfile.write(body + hub.extra)
                return
            sent = None
            if hub.n_breaks and hub.break_after is not None:
                hub.n_breaks -= 1
                sent = hub.break_after
            self._send(206 if start else 200, body, sent)

        def _send(self, status: int, body: bytes, sent: int | None = None) -> None:
            """`sent` bytes of a body whose announced length is the whole."""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:sent])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    return server
