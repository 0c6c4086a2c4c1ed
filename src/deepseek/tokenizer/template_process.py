"""Renders a chat template in a child process, with limits that a template cannot get around."""

import json
import selectors
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from deepseek.core.errors import TokenizerError

PROGRAM = Path(__file__).with_name("template_child.py")
START_SECONDS = 30.0  # Python and jinja2 have to start, on a busy machine
RENDER_SECONDS = 4.0
CHARACTERS_PER_SECOND = 2_000_000
# A template may repeat what is said, and adds little of its own.
MAX_REPEATS = 8
MAX_OWN_CHARACTERS = 1 << 20


class TemplateProcess:
    """Started at the first use, kept for the next, replaced when it dies."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        self._setup = {"template": source, "bos": bos, "eos": eos}
        self._child: subprocess.Popen[bytes] | None = None
        self._ender: weakref.finalize[Any, Any] | None = None
        self._lock = threading.Lock()

    def render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """The rendered conversation.

        Raises:
            TokenizerError: The template is wrong, refuses, takes too long or too much memory.
        """
        size = sum(len(message["content"]) for message in messages)
        limit = MAX_OWN_CHARACTERS + MAX_REPEATS * size
        request = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "max_characters": limit,
        }
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self._start()
            answer = self._ask(request, RENDER_SECONDS + size / CHARACTERS_PER_SECOND, limit)
        if "error" in answer:
            raise TokenizerError(
                f"the chat template failed: {answer['error']}",
                "check the order of roles, or use another checkpoint",
            )
        return str(answer["text"])

    def close(self) -> None:
        """End the child."""
        if self._ender is not None:
            self._ender()
        self._child = self._ender = None

    def _start(self) -> None:
        self.close()
        # -P: a file named json.py in the user's current folder must not be run.
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._ender = weakref.finalize(self, _end, self._child)
        self._hear(START_SECONDS)
        # Compiling is work on the template's terms, too: constants are folded.
        answer = self._ask(self._setup, RENDER_SECONDS)
        if "error" in answer:
            raise TokenizerError(
                f"the chat template is invalid: {answer['error']}", "use another checkpoint"
            )

    def _ask(
        self, request: dict[str, Any], seconds: float, max_characters: int = 0
    ) -> dict[str, Any]:
        assert self._child is not None
        assert self._child.stdin is not None
        line = json.dumps(request | {"seconds": seconds}).encode() + b"\n"
        try:
            self._child.stdin.write(line)
            self._child.stdin.flush()
        except OSError:
            raise self._exceeded("it ended early") from None
        return self._hear(seconds, max_characters)

    def _hear(self, seconds: float, max_characters: int = 0) -> dict[str, Any]:
        """The child's next answer; whatever is wrong with it, the child does not live on."""
        assert self._child is not None
        try:
            line = _read_line(self._child, time.monotonic() + seconds, max_characters)
            answer: dict[str, Any] = json.loads(line)
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            raise self._exceeded(str(error)) from None
        return answer

    def _exceeded(self, what: str) -> TokenizerError:
        self.close()
        return TokenizerError(
            f"the chat template exceeded its bounds ({what})",
            "it is broken or hostile: use another checkpoint",
        )


def _read_line(child: "subprocess.Popen[bytes]", deadline: float, max_characters: int) -> bytes:
    """One line of the child's output, or TimeoutError; OSError when it died."""
    assert child.stdout is not None
    pieces: list[bytes] = []
    size = 0
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError("out of time")
            piece = child.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            if not piece:
                raise OSError("out of time or memory")
            pieces.append(piece)
            size += len(piece)
            if size > 12 * max_characters + (1 << 16):  # JSON writes a character in 1 to 12
                raise OSError("too much output")
            if piece.endswith(b"\n"):
                return b"".join(pieces)


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()
    child.wait()
