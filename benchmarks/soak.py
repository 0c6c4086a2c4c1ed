"""Ten thousand mixed requests from many threads: does anything leak, hang, or come out wrong?

    python benchmarks/soak.py [--model tiny] [--requests 10000] [--clients 12] [--pages 20]

SmolLM2-135M, or the tiny model of the tests, with so few pages of memory that requests make way for
each other. Clients stream, leave, lose their streams, cancel, ask for several answers and for
answers in a form, score, and ask for what must be refused (mix.py). Nothing is timed: the machine
may be busy. Memory is sampled all the while; it is flat if the last quarter's mean is at most 2 %
above the second quarter's.
Writes benchmarks/results/soak.json and .md (not with --quick).
"""

import argparse
import faulthandler
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import mean

import torch

from deepseek.core.memory import resident_bytes
from deepseek.core.threads import thread_count
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.model.budget import Budget, PageCounts
from deepseek.model.transformer import Transformer
from deepseek.ops import native
from deepseek.tokenizer.tokenizer import Tokenizer
from mix import Mix
from report import ROOT, Row, say, say_row, write_results

MODEL, TINY = "smollm2-135m", "tiny"
CONTEXT = 1_024
PERIOD = 0.25
"""Seconds between two looks at memory."""
STALLED = 120.0
"""Seconds in which some request must end."""
GROWTH = 2.0
"""Most that memory may grow from the second quarter to the last, in percent."""
FILES = Path("/proc/self/fd")
TEXT = ROOT / "LICENSE"


@dataclass(slots=True)
class Soak:
    """Clients that send the requests of a mix, and what they leave behind."""

    engine: Engine
    mix: Mix
    resident: list[int] = field(default_factory=list)
    """Bytes, sampled."""

    def run(self, n_requests: int, n_clients: int, stalled: float = STALLED) -> None:
        """Send that many requests.

        Raises:
            RuntimeError: For a long time none has ended; where each thread stands was printed.
        """
        numbers = count()

        def client() -> None:
            while (number := next(numbers)) < n_requests:
                self.mix.send(number)

        threads = [
            threading.Thread(target=client, name="client", daemon=True) for _ in range(n_clients)
        ]
        for thread in threads:
            thread.start()
        n_before, since = 0, time.monotonic()
        while any(thread.is_alive() for thread in threads):
            time.sleep(PERIOD)
            self.resident.append(resident_bytes())
            n_now = self.mix.tally.n_ended
            if n_now // 1_000 > n_before // 1_000:
                say(f"{n_now:,} requests have ended, {resident_bytes() / 2**20:.1f} MiB")
            if n_now > n_before:
                n_before, since = n_now, time.monotonic()
            elif time.monotonic() - since > stalled:
                faulthandler.dump_traceback(all_threads=True)
                raise RuntimeError(f"no request has ended for {stalled:.0f} s")

    def pages_left(self) -> int:
        """Pages of all kinds that are still in use when all is forgotten."""
        self.engine.forget()
        assert isinstance(self.engine.runner, NativeRunner)
        return sum(pool.n_used for pool in self.engine.runner.decoder.pools)

    def n_preempted(self) -> int:
        """How often a request made way for another."""
        assert self.engine._loop is not None
        return self.engine._loop.scheduler.counts.preempted

    def is_idle(self) -> bool:
        """Whether no request waits or runs, as one sees it after `forget`."""
        assert self.engine._loop is not None
        return self.engine._loop.scheduler.is_idle


def engine_with(model: str, n_pages: int, n_threads: int) -> Engine:
    """A checkpoint with that many pages of keys and values."""
    transformer, tokenizer = tiny() if model == TINY else loaded(model, n_threads)
    native.use_threads(n_threads)
    budget = Budget(
        kv_format="bfloat16",
        context_window=CONTEXT,
        pages=PageCounts(hot=n_pages, nodes=0),
        peak_bytes=0,
    )
    return Engine(
        transformer,
        tokenizer,
        name=model,
        dtype=torch.float32,
        device=torch.device("cpu"),
        context_window=CONTEXT,
        budget=budget,
    )


def loaded(model: str, n_threads: int) -> tuple[Transformer, Tokenizer]:
    """A named checkpoint."""
    engine, _ = load_engine(model, threads=n_threads)
    return engine.runner.model, engine.tokenizer


def tiny() -> tuple[Transformer, Tokenizer]:
    """The checkpoint of the tests: random weights, so small that requests alone take the time."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "engine")]
    from tiny_native import native_model

    from tiny_checkpoint import write_tiny_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Tokenizer.from_folder(write_tiny_checkpoint(Path(folder)))
    return native_model(), tokenizer


def threads_left(wait: float = 10.0) -> int:
    """Threads of engine and clients that do not end."""
    until = time.monotonic() + wait
    while True:
        names = [thread.name for thread in threading.enumerate()]
        n = sum(name in ("engine", "client") for name in names)
        if not n or time.monotonic() > until:
            return n
        time.sleep(0.01)


def growth(resident: Sequence[int]) -> float:
    """Percent by which the mean of the last quarter is above that of the second."""
    quarter = len(resident) // 4
    second, last = resident[quarter : 2 * quarter], resident[-quarter:]
    return 100 * (mean(last) / mean(second) - 1)


def rows_of(soak: Soak, n_files_before: int) -> list[Row]:
    """What was found; everything is forgotten on the way."""
    tally, resident = soak.mix.tally, soak.resident
    n_pages, n_threads = soak.pages_left(), threads_left()
    n_files = len(os.listdir(FILES)) - n_files_before
    zero = {"must": 0.0, "better": "lower"}
    rows = [
        Row("requests that ended", tally.n_ended, "requests"),
        *(Row(f"of these: {k}", n, "requests") for k, n in sorted(tally.ended.items())),
        *(Row(f"answers that ended: {k}", n, "answers") for k, n in sorted(tally.reasons.items())),
        Row("requests that made way and were read again", soak.n_preempted(), "times"),
        Row("wrong answers, wrong endings, unwanted errors", len(tally.wrong), "requests", **zero),
        Row("requests left in the scheduler", float(not soak.is_idle()), "", **zero),
        Row("pages left after forgetting", n_pages, "pages", **zero),
        Row("threads left", n_threads, "threads", **zero),
        Row("open files more than before", n_files, "files", **zero),
    ]
    if len(resident) >= 8 and resident[0]:
        rows.append(
            Row(
                "resident memory, last quarter above second",
                growth(resident),
                "%",
                rounds=len(resident),
                must=GROWTH,
                moonshot=0.0,
                better="lower",
            )
        )
        rows.append(Row("most resident memory", max(resident) / 2**20, "MiB"))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=MODEL, help=f"{TINY}: the one of the tests")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--pages", type=int, default=20, help="of 64 tokens, for all requests")
    parser.add_argument("--threads", type=int, default=thread_count()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="300 requests, no file")
    args = parser.parse_args(arguments)
    engine = engine_with(args.model, args.pages, args.threads)
    soak = Soak(engine, Mix(engine, TEXT.read_text(encoding="utf-8"), seed=args.seed))
    n_files = len(os.listdir(FILES)) if FILES.exists() else 0
    soak.run(300 if args.quick else args.requests, args.clients)
    rows = rows_of(soak, n_files)
    for row in rows:
        say_row(row)
    for problem in soak.mix.tally.wrong[:20]:
        say(problem)
    if not args.quick:
        write_results("soak", rows, [sys.argv[0], *(arguments or sys.argv[1:])])


if __name__ == "__main__":
    main()
