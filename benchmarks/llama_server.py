"""llama.cpp's own server as a peer: a process on this machine, asked over HTTP with token ids."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

READY = 120.0
"""Seconds that loading may take."""
ANSWERED = 600.0
"""Seconds that an answer may take."""
BEST = ("-fa", "on")
"""Flags of every run; continuous batching is its default."""
SPECULATIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "ngram-simple": ("--spec-type", "ngram-simple"),
    "ngram-simple, short": (
        *("--spec-type", "ngram-simple"),
        *("--spec-ngram-simple-size-n", "4", "--spec-ngram-simple-size-m", "16"),
    ),
    "ngram-map-k": ("--spec-type", "ngram-map-k"),
    "ngram-map-k, short": (
        *("--spec-type", "ngram-map-k"),
        *("--spec-ngram-map-k-size-n", "4", "--spec-ngram-map-k-size-m", "16"),
    ),
    "ngram-map-k4v": ("--spec-type", "ngram-map-k4v"),
    "ngram-mod": ("--spec-type", "ngram-mod"),
    "ngram-mod, short": (
        *("--spec-type", "ngram-mod", "--spec-ngram-mod-n-match", "8"),
        *("--spec-ngram-mod-n-min", "4", "--spec-ngram-mod-n-max", "16"),
    ),
    "ngram-cache": ("--spec-type", "ngram-cache"),
}
"""Its ways to speculate without a second model, and short drafts, which suit a processor."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server gives back; times are its own, in seconds."""

    token_ids: tuple[int, ...]
    seconds: float
    """From the first token of the answer to the last."""
    n_read: int
    """Tokens of the prompt that were not in its cache."""
    n_drafted: int
    n_accepted: int
    latency: float
    """From sending the request to having the answer."""


class LlamaServer:
    """A running `llama-server`; a context manager that ends it."""

    def __init__(
        self,
        program: Path,
        model: Path,
        n_threads: int,
        flags: Sequence[str] = (),
        *,
        n_slots: int = 1,
        context: int = 8_192,
    ) -> None:
        """Start it on a free port of the loopback interface, and wait until it is ready.

        Args:
            program: The executable.
            model: The GGUF file.
            n_threads: Of its computations.
            flags: More of them.
            n_slots: Requests that it answers side by side.
            context: Tokens that each may take.

        Raises:
            RuntimeError: It ends, or is not ready in time.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.flags = " ".join((*BEST, *flags, "-np", str(n_slots)))
        command = [str(program), "-m", str(model), *BEST, *flags, "-np", str(n_slots)]
        command += ["-c", str(n_slots * context), "-t", str(n_threads), "-tb", str(n_threads)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--offline"]
        self._url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._wait()
            self.build = str(self._get("/props").get("build_info", "unknown"))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def answer(
        self,
        ids: Sequence[int],
        n_tokens: int,
        *,
        stop: Sequence[str] = (),
        schema: dict[str, Any] | None = None,
        reuses: bool = False,
        goes_on: bool = False,
        slot: int = -1,
    ) -> Answer:
        """Answer a prompt greedily.

        Args:
            ids: Of the prompt.
            n_tokens: At most so many tokens of the answer.
            stop: Texts that end it.
            schema: That it must follow.
            reuses: Whether what its cache has of the prompt may be used.
            goes_on: Never end by itself.
            slot: That answers; -1: any.
        """
        body: dict[str, Any] = {
            "prompt": list(ids),
            "n_predict": n_tokens,
            "temperature": 0,
            "cache_prompt": reuses,
            "ignore_eos": goes_on,
            "stop": list(stop),
            "return_tokens": True,
            "id_slot": slot,
        }
        if schema is not None:
            body["json_schema"] = schema
        start = time.perf_counter()
        found = self._get("/completion", body)
        latency = time.perf_counter() - start
        times = found["timings"]
        return Answer(
            token_ids=tuple(found["tokens"]),
            seconds=times["predicted_ms"] / 1e3,
            n_read=times["prompt_n"],
            n_drafted=times.get("draft_n", 0),
            n_accepted=times.get("draft_n_accepted", 0),
            latency=latency,
        )

    def answer_all(
        self, prompts: Sequence[Sequence[int]], n_tokens: int
    ) -> tuple[float, list[Answer]]:
        """Seconds to answer some prompts at once, each with so many tokens, and the answers."""
        start = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as pool:
            answers = list(pool.map(lambda ids: self.answer(ids, n_tokens, goes_on=True), prompts))
        return time.perf_counter() - start, answers

    def _wait(self) -> None:
        until = time.monotonic() + READY
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(f"llama-server ended with {self._process.returncode}")
            try:
                self._get("/health")
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise RuntimeError(f"llama-server was not ready after {READY:.0f} s")

    def _get(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._url + path, data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=ANSWERED) as reply:
            found: dict[str, Any] = json.loads(reply.read())
        return found
