"""A child process that does risky work: asked with one line of JSON, answers with one, or dies."""

import json
import selectors
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

START_SECONDS = 30.0  # Python has to start, on a busy machine
SMALL_ANSWER = 1 << 16


class ChildError(Exception):
    """The child exceeded its bounds; it does not live on."""


class Child:
    """A program run as a file; it says that it is ready before it is asked."""

    def __init__(self, program: Path) -> None:
        """Start it.

        Raises:
            ChildError: It does not start.
        """
        # -P: a file named json.py in the user's current folder must not be run.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._ender = weakref.finalize(self, _end, self.process)
        self._hear(START_SECONDS, SMALL_ANSWER)

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self.process.poll() is None

    def ask(
        self, request: dict[str, Any], seconds: float, max_bytes: int = SMALL_ANSWER
    ) -> dict[str, Any]:
        """The child's answer.

        Args:
            request: What JSON can hold.
            seconds: Of the clock; then it is killed.
            max_bytes: Of the answer; at more it is killed.

        Raises:
            ChildError: It took too long or wrote too much, or died.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            self.close()
            raise ChildError("it ended early") from None
        return self._hear(seconds, max_bytes)

    def close(self) -> None:
        """End it."""
        self._ender()

    def _hear(self, seconds: float, max_bytes: int) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._line(time.monotonic() + seconds, max_bytes))
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            self.close()
            raise ChildError(str(error)) from None
        return answer

    def _line(self, deadline: float, max_bytes: int) -> bytes:
        """One line of the child's output, or TimeoutError; OSError when it died."""
        assert self.process.stdout is not None
        pieces: list[bytes] = []
        size = 0
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError("out of time")
                piece = self.process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
                if not piece:
                    raise OSError("out of time or memory")
                pieces.append(piece)
                size += len(piece)
                if size > max_bytes:
                    raise OSError("too much output")
                if piece.endswith(b"\n"):
                    return b"".join(pieces)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.wait()
