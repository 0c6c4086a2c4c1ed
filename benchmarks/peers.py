"""Child processes that each hold one inference engine and run one timed job at a time.

Job lines on standard input, answers as JSON on standard output:

    prefill N                    seconds to read N tokens from scratch
    decode N [CONTEXT]           seconds for N tokens after CONTEXT (128), which stay in the cache
    streams N COUNT [UNIFIED]    seconds for N tokens each of COUNT sequences after 128
    memory                       resident bytes after a prompt of 512 and 32 tokens
    facts                        sizes of the model
    products ROWS                seconds, bytes and operations of each matrix (ours only)

The engine that is not asked sleeps, so that two engines can take turns on the same threads.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines import KINDS, Peer
from streams import Streams

DECODE_PROMPT = 128  # tokens in the cache before decoding is timed
ROOM = 128  # tokens that a stream may grow by
STATUS = Path("/proc/self/smaps_rollup")


class Worker:
    """The parent's end of a child process."""

    def __init__(self, kind: str, path: Path, n_threads: int, **settings: Any) -> None:
        self.settings = settings
        command = [sys.executable, __file__, kind, str(path), str(n_threads), json.dumps(settings)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def rate(self, job: str, n_tokens: int, *more: int) -> float:
        """Tokens a second of one run; those of all streams together."""
        n_streams = more[0] if job == "streams" else 1
        seconds: float = self.ask(job, n_tokens, *more)
        return n_tokens * n_streams / seconds

    def ask(self, job: str, *numbers: int) -> Any:
        """The answer to a job line.

        Raises:
            RuntimeError: The child has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(job, *numbers, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        """End the child."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Jobs:
    """What a child does when asked."""

    def __init__(self, peer: Peer, ids: list[int]) -> None:
        self._peer, self._ids = peer, ids
        self._streams: dict[tuple[int, bool], Streams] = {}

    def prefill(self, n_tokens: int) -> float:
        """Seconds to read that many tokens from scratch."""
        start = time.perf_counter()
        self._peer.prefill(self._ids[:n_tokens])
        return time.perf_counter() - start

    def decode(self, n_tokens: int, context: int = DECODE_PROMPT) -> float:
        """Seconds for that many tokens after others, which are read only once."""
        token = self._peer.hold(self._ids[:context])
        start = time.perf_counter()
        for _ in range(n_tokens):
            token = self._peer.step(token)
        return time.perf_counter() - start

    def streams(self, n_tokens: int, n_streams: int, unified: int = 1) -> float:
        """Seconds for that many tokens each of some sequences."""
        key = n_streams, bool(unified)
        if key not in self._streams:
            step = (len(self._ids) - DECODE_PROMPT) // n_streams
            starts = [i * step for i in range(n_streams)]
            prompts = [self._ids[start : start + DECODE_PROMPT] for start in starts]
            self._streams[key] = self._peer.streams(prompts, ROOM, unified=bool(unified))
        streams = self._streams[key]
        streams.rewind()
        tokens = streams.first
        start = time.perf_counter()
        for _ in range(n_tokens):
            tokens = streams.step(tokens)
        return time.perf_counter() - start

    def memory(self) -> dict[str, int]:
        """Resident and proportional bytes after a prompt and some tokens."""
        self.prefill(512)
        self.decode(32, 512)
        lines = STATUS.read_text().splitlines()[1:]
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return {"resident": sizes["Rss"], "proportional": sizes["Pss"]}

    def facts(self) -> dict[str, int]:
        """Sizes of the model."""
        return self._peer.facts()

    def products(self, n_rows: int) -> dict[str, dict[str, float]]:
        """What each matrix takes for so many rows of activations."""
        return self._peer.products(n_rows)


def source_ids(encode: Callable[[str], list[int]], n_tokens: int) -> list[int]:
    """At least so many tokens of this repository's licence and code."""
    root = Path(__file__).parents[1]
    ids: list[int] = []
    for file in [root / "LICENSE", *sorted((root / "src").rglob("*.py"))]:
        if len(ids) < n_tokens:
            ids += encode(file.read_text(encoding="utf-8"))
    return ids


def serve(kind: str, path: str, n_threads: str, settings: str) -> None:
    """Answer jobs until the input ends."""
    given = json.loads(settings)
    peer: Peer = KINDS[kind](path, int(n_threads), **given)
    window = given.get("n_ctx") or given.get("context_window") or 0
    jobs = Jobs(peer, source_ids(peer.tokens, max(window, 8_200)))
    jobs.decode(4)  # warm
    for line in sys.stdin:
        job, *numbers = line.split()
        do: Callable[..., Any] = getattr(jobs, job)
        print(json.dumps(do(*map(int, numbers))), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
