"""A child process that renders one template, with limits that a template cannot get around.

Run as `python -m deepseek.tokenizer.template_process`. It reads one JSON object a line (the
template first, then conversations) and answers with one line each.
"""

import json
import selectors
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

from deepseek.core.errors import TokenizerError

START_SECONDS = 20.0  # Python and jinja2 have to start, on a busy machine
RENDER_SECONDS = 2.0
MEMORY_BYTES = 1 << 30
MAX_OUTPUT_CHARACTERS = 64 << 20


class TemplateProcess:
    """Started at the first use, kept for the next, replaced when it dies."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        self._setup = {"template": source, "bos": bos, "eos": eos}
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """The rendered conversation.

        Raises:
            TokenizerError: The template is wrong, refuses, takes too long or too much memory.
        """
        request = {"messages": messages, "add_generation_prompt": add_generation_prompt}
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self._start()
            size = sum(len(message["content"]) for message in messages)
            answer = self._ask(request, RENDER_SECONDS + size / 5e6)
        if "error" in answer:
            raise TokenizerError(
                f"the chat template failed: {answer['error']}",
                "check the order of roles, or use another checkpoint",
            )
        return str(answer["text"])

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            _end(self._child)
            self._child = None

    def _start(self) -> None:
        self.close()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "deepseek.tokenizer.template_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        weakref.finalize(self, _end, self._child)
        answer = self._ask(self._setup, START_SECONDS)
        if "error" in answer:
            raise TokenizerError(
                f"the chat template is invalid: {answer['error']}", "use another checkpoint"
            )

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            line = _read_line(child, time.monotonic() + seconds)
        except (OSError, TimeoutError) as error:
            self.close()
            raise TokenizerError(
                f"the chat template exceeded its bounds ({error or type(error).__name__})",
                "it is broken or hostile: use another checkpoint",
            ) from None
        answer: dict[str, Any] = json.loads(line)
        return answer


def _read_line(child: "subprocess.Popen[bytes]", deadline: float) -> bytes:
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
                raise OSError("the renderer ran out of memory or crashed")
            pieces.append(piece)
            size += len(piece)
            if size > 8 * MAX_OUTPUT_CHARACTERS:
                raise OSError("too much output")
            if piece.endswith(b"\n"):
                return b"".join(pieces)


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()
    child.wait()


def main() -> None:
    """The child: limit itself, compile the template, render until the input ends."""
    _limit_memory()
    setup = json.loads(sys.stdin.readline())
    try:
        template = _compile(setup["template"])
    except Exception as error:
        _reply({"error": _reason(error)})
        return
    _reply({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            pieces, size = [], 0
            for piece in template.generate(
                **request,
                bos_token=setup["bos"],
                eos_token=setup["eos"],
                tools=None,
                documents=None,
            ):
                size += len(piece)
                if size > MAX_OUTPUT_CHARACTERS:
                    raise ValueError("it writes too much")
                pieces.append(piece)
            _reply({"text": "".join(pieces)})
        except Exception as error:
            _reply({"error": _reason(error)})


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows: the time limit still holds
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _compile(source: str) -> Any:
    """A sandboxed template with the globals that Hugging Face's templates expect."""
    import datetime

    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    def strftime_now(form: str) -> str:
        return datetime.datetime.now().strftime(form)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return environment.from_string(source)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _reply(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
