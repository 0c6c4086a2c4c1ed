"""Child processes that each hold one inference engine and run one timed job at a time.

Job lines on standard input: `prefill N` or `decode N`; answers on standard output: seconds.
The engine that is not asked sleeps, so that two engines can take turns on the same threads.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

DECODE_PROMPT = 128  # tokens in the cache before decoding is timed


class Peer(Protocol):
    """What is timed."""

    def tokens(self, text: str) -> list[int]:
        """Token ids."""
        ...

    def prefill(self, ids: list[int]) -> int:
        """Read a prompt from scratch; return the likeliest next token."""
        ...

    def step(self, token_id: int) -> int:
        """Append a token; return the likeliest next one."""
        ...


class Ours:
    """The engine of this package."""

    def __init__(self, path: str, n_threads: int, **settings: Any) -> None:
        from deepseek.engine.loader import load_engine

        self._engine, _ = load_engine(path, threads=n_threads, **settings)

    def tokens(self, text: str) -> list[int]:
        """Token ids."""
        return self._engine.tokenizer.encode(text)

    def prefill(self, ids: list[int]) -> int:
        """Read a prompt from scratch; return the likeliest next token."""
        self._engine.forget()
        return int(self._engine.runner.read(ids).argmax())

    def step(self, token_id: int) -> int:
        """Append a token; return the likeliest next one."""
        return int(self._engine.runner.step(token_id).argmax())


class LlamaCpp:
    """llama.cpp through llama-cpp-python."""

    def __init__(self, path: str, n_threads: int, **settings: Any) -> None:
        import llama_cpp

        self._llama = llama_cpp.Llama(
            path,
            n_ctx=8_192,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            verbose=False,
            **settings,
        )

    def tokens(self, text: str) -> list[int]:
        """Token ids."""
        return self._llama.tokenize(text.encode(), add_bos=False)

    def prefill(self, ids: list[int]) -> int:
        """Read a prompt from scratch; return the likeliest next token."""
        self._llama.reset()
        return self._eval(ids)

    def step(self, token_id: int) -> int:
        """Append a token; return the likeliest next one."""
        return self._eval([token_id])

    def _eval(self, ids: list[int]) -> int:
        import llama_cpp
        import numpy as np

        self._llama.eval(ids)
        logits = llama_cpp.llama_get_logits_ith(self._llama.ctx, -1)
        return int(np.ctypeslib.as_array(logits, shape=(self._llama.n_vocab(),)).argmax())


KINDS = {"ours": Ours, "llama.cpp": LlamaCpp}


class Worker:
    """The parent's end of a child process."""

    def __init__(self, kind: str, path: Path, n_threads: int, **settings: Any) -> None:
        self.settings = settings
        command = [sys.executable, __file__, kind, str(path), str(n_threads), json.dumps(settings)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def rate(self, job: str, n_tokens: int) -> float:
        """Tokens a second of one run."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{job} {n_tokens}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")
        return n_tokens / float(answer)

    def close(self) -> None:
        """End the child."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def seconds(peer: Peer, ids: list[int], job: str, n_tokens: int) -> float:
    """Time one job."""
    if job == "prefill":
        start = time.perf_counter()
        peer.prefill(ids[:n_tokens])
        return time.perf_counter() - start
    token = peer.prefill(ids[:DECODE_PROMPT])
    start = time.perf_counter()
    for _ in range(n_tokens):
        token = peer.step(token)
    return time.perf_counter() - start


def serve(kind: str, path: str, n_threads: str, settings: str) -> None:
    """Answer jobs until the input ends."""
    peer: Peer = KINDS[kind](path, int(n_threads), **json.loads(settings))
    root = Path(__file__).parents[1]
    files = [root / "LICENSE", *sorted((root / "src").rglob("*.py"))]
    ids: list[int] = []
    for file in files:
        ids += peer.tokens(file.read_text(encoding="utf-8"))
        if len(ids) >= 8_200:
            break
    seconds(peer, ids, "decode", 4)  # warm
    for line in sys.stdin:
        job, n_tokens = line.split()
        print(seconds(peer, ids, job, int(n_tokens)), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
