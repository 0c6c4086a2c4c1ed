"""Text of HTML and PDF files, extracted in a child process: a hostile file ends that one only."""

from pathlib import Path

from deepseek.core.child import Child, ChildError

PROGRAM = Path(__file__).with_name("extraction_child.py")
COMPUTING_SECONDS = 60.0
BUSY_SECONDS = 180.0
"""Of the clock, more than the computing takes on a busy machine."""


class Extractor:
    """The child is started at the first use, kept for the next, replaced when it dies."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._child: Child | None = None

    def text(self, path: Path, kind: str) -> tuple[str, str, str]:
        """Text, title, and what is wrong (then there is no text).

        Args:
            path: An existing file.
            kind: `html` or `pdf`.
        """
        request = {
            "path": str(path.absolute()),
            "kind": kind,
            "seconds": COMPUTING_SECONDS,
            "max_bytes": self._max_bytes,
        }
        try:
            if self._child is None or not self._child.is_alive:
                self._child = Child(PROGRAM)
            # In JSON a byte of UTF-8 becomes six characters at most.
            answer = self._child.ask(request, BUSY_SECONDS, 6 * self._max_bytes + 65_536)
        except ChildError as error:
            self._child = None
            return "", "", f"extracting its text failed: {error}"
        return str(answer["text"]), str(answer["title"]), str(answer["error"])

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
            self._child = None
