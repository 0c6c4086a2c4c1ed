"""The native kernels beside llama.cpp: same bytes, same threads, taking turns.

    python benchmarks/kernels.py [--quick] [--models qwen2.5-coder-1.5b] [--ik LLAMA_BENCH]
                                 [--parts cache]

Ours computes in int8. llama.cpp runs with the batch size, attention and cache layout that are
fastest here, found beforehand for each kind of job, and once more with the same model in Q4_0
as its own tool makes it. `--ik` names the `llama-bench` program of an ik_llama.cpp that was
built natively; that one loads the file for every run, which is not counted. Further rows: a
decode step of 4 and 8 sequences against one, resident memory, and shares of the machine's
ceilings. Part `cache` is long contexts with keys and values in 8 and 4 bits (quantised_cache.py).
Writes benchmarks/results/kernels.json, .md and .svg (not with --quick); rows of parts and
checkpoints that were not asked for are kept.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ceilings import Ceilings, measure
from chart import draw_ratios
from deepseek.core.threads import thread_count
from deepseek.weights.pull import ensure
from ik_llama import best_of
from llama_flags import Flags, cache_layout, fastest_flags, llama_name
from peers import DECODE_PROMPT, Worker
from quantised_cache import compare_caches, is_of_cache
from report import RESULTS, Row, read_rows, say, say_row, write_results
from requantised import requantised
from roofline import matrix_rows, pass_rows

FORMATS = {"smollm2-135m": "Q4_1", "qwen2.5-coder-1.5b": "Q4_K_M"}
LONG = 8_000
STREAMS = 8
TARGETS = {
    ("smollm2-135m", "prefill 512"): (3.0, 5.0),
    ("qwen2.5-coder-1.5b", "prefill 512"): (1.8, 2.5),
    ("qwen2.5-coder-1.5b", f"prefill {LONG}"): (3.0, 4.5),
    ("qwen2.5-coder-1.5b", "decode 64"): (1.2, 2.0),
    ("smollm2-135m", "decode 64"): (1.5, 2.5),
}
TARGETS |= {(model, f"decode 32 at {LONG}"): (1.3, 1.6) for model in FORMATS}
TARGETS |= {(model, f"{STREAMS} streams, 32 each"): (2.0, 3.0) for model in FORMATS}
WIDTHS = {4: 1.25, 8: 1.6}
"""Most that a step of so many sequences may take, in steps of one."""
WIDTHS_MODEL = MEMORY_MODEL = "qwen2.5-coder-1.5b"
MEMORY_MUST = 1.15
PARTS = ("products", "cache")


@dataclass(frozen=True, slots=True)
class Job:
    """What is timed, and how often."""

    kind: str
    n_tokens: int
    size: int
    """Tokens read, tokens in the cache before, or number of streams."""
    rounds: int
    peer_rounds: int
    """Of the peers that have no target."""

    @property
    def name(self) -> str:
        """For people."""
        if self.kind == "streams":
            return f"{self.size} streams, {self.n_tokens} each"
        is_far = self.kind == "decode" and self.size != DECODE_PROMPT
        return f"{self.kind} {self.n_tokens}" + (f" at {self.size}" if is_far else "")

    @property
    def words(self) -> tuple[Any, ...]:
        """For a worker."""
        return (self.kind, self.n_tokens, *(() if self.kind == "prefill" else (self.size,)))


@dataclass(frozen=True, slots=True)
class Rival:
    """A peer in one job."""

    rate: Callable[[], float]
    name: Callable[[], str]
    rounds: int
    has_target: bool = False


class Bench:
    """One checkpoint with the workers that hold it."""

    def __init__(self, model: str, ik: Path | None, *, quick: bool) -> None:
        self.model, self._ik, self._quick = model, ik, quick
        self._path, (self._n_threads, _) = ensure(model).path, thread_count()
        self._plain = requantised(self._path, self._n_threads)
        self._workers: dict[tuple[Any, ...], Worker] = {}
        self._ik_benches: dict[str, Any] = {}
        self._flags = Flags() if quick else fastest_flags(model, self._path, self._n_threads)
        self.rates: dict[tuple[str, int], float] = {}

    @property
    def ours(self) -> Worker:
        """This package's."""
        return self._worker("ours", self._path, dtype="int8")

    def compare(self, job: Job) -> list[Row]:
        """All engines in turns; a row for each peer."""
        rivals = self._rivals(job)
        rates: list[list[float]] = [[] for _ in range(len(rivals) + 1)]
        for number in range(job.rounds):
            turns: list[Callable[[], float] | None] = [lambda: self.ours.rate(*job.words)]
            turns += [rival.rate if number < rival.rounds else None for rival in rivals]
            order = range(len(turns)) if number % 2 == 0 else reversed(range(len(turns)))
            for i in order:
                if (turn := turns[i]) is not None:
                    rates[i].append(turn())
        self.rates[job.kind, job.size] = median(rates[0])
        return [
            self._row(job, rival, rates[0], theirs)
            for rival, theirs in zip(rivals, rates[1:], strict=True)
        ]

    def widths(self, n_tokens: int, rounds: int) -> list[Row]:
        """How much longer a step of several sequences takes than one of one."""
        times: dict[int, list[float]] = {n: [] for n in (1, *WIDTHS)}
        for _ in range(rounds):
            for n_streams, seconds in times.items():
                seconds.append(self.ours.ask("streams", n_tokens, n_streams))
        rows = []
        for n_streams, must in WIDTHS.items():
            ratios = [a / b for a, b in zip(times[n_streams], times[1], strict=True)]
            rows.append(
                Row(
                    name=f"{self.model} T({n_streams})/T(1) of a decode step",
                    value=median(ratios),
                    unit="times",
                    rounds=rounds,
                    low=min(ratios),
                    high=max(ratios),
                    must=must if self.model == WIDTHS_MODEL and not self._quick else None,
                    better="lower",
                )
            )
            say_row(rows[-1])
        return rows

    def roofline(self, ceilings: Ceilings) -> list[Row]:
        """Shares of the ceilings: the better of those found before and of now."""
        ceilings = ceilings.or_better(measure(self._n_threads))
        facts = self.ours.ask("facts")
        times = {n: self.ours.ask("products", n) for n in (1, STREAMS, 512)}
        rows = pass_rows(self.model, self.rates, facts, ceilings)
        rows += matrix_rows(self.model, times, ceilings)
        for row in rows:
            say_row(row)
        return rows

    def memory(self) -> list[Row]:
        """Memory of fresh sessions with room for as many tokens, one after the other."""
        self.close()
        flags = self._flags.prefill | {"n_ctx": 1_024}
        sizes = []
        for kind, settings in (("ours", {"dtype": "int8"}), ("llama.cpp", flags)):
            worker = Worker(kind, self._path, self._n_threads, **settings)
            sizes.append(worker.ask("memory"))
            worker.close()
        rows = []
        for key in sizes[0]:
            has_must = key == "resident" and self.model == MEMORY_MODEL
            rows.append(
                Row(
                    name=f"{self.model} {key} memory after 512 and 32 tokens",
                    value=sizes[0][key] / 2**20,
                    unit="MiB",
                    peer=llama_name(FORMATS[self.model], flags),
                    peer_value=sizes[1][key] / 2**20,
                    must=MEMORY_MUST if has_must else None,
                    better="lower",
                    judge="ratio",
                )
            )
            say_row(rows[-1])
        return rows

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _worker(self, kind: str, path: Path, **settings: Any) -> Worker:
        key = kind, path, *sorted(settings.items())
        if key not in self._workers:
            self._workers[key] = Worker(kind, path, self._n_threads, **settings)
        return self._workers[key]

    def _rivals(self, job: Job) -> list[Rival]:
        kept = FORMATS[self.model]
        rivals = [self._llama(job, self._path, kept, has_target=True)]
        if job.kind != "streams":
            made = f"Q4_0 (requantised by it from {kept})"
            rivals.append(self._llama(job, self._plain, made, has_target=False))
            if self._ik is not None:
                rivals.append(self._ik_llama(job, self._ik))
        return [rival for rival in rivals if rival.rounds]

    def _llama(self, job: Job, path: Path, what: str, *, has_target: bool) -> Rival:
        flags = self._flags.of(job.kind, job.size)
        worker = self._worker("llama.cpp", path, **flags)
        words, name = job.words, llama_name(what, flags)
        if job.kind == "streams":
            words += (int(self._flags.unified),)
            name += f", {cache_layout(self._flags.unified)}"
        rounds = job.rounds if has_target else job.peer_rounds
        return Rival(lambda: worker.rate(*words), lambda: name, rounds, has_target)

    def _ik_llama(self, job: Job, program: Path) -> Rival:
        if job.kind not in self._ik_benches:
            n_tokens = 512 if job.kind == "prefill" else 32
            self._ik_benches[job.kind] = best_of(
                program, self._path, self._n_threads, job.kind, n_tokens
            )
        bench = self._ik_benches[job.kind]
        return Rival(
            lambda: bench.rate(*job.words),
            lambda: f"ik_llama.cpp {bench.build}, {FORMATS[self.model]}, {bench.flags}",
            job.peer_rounds,
        )

    def _row(self, job: Job, rival: Rival, ours: list[float], theirs: list[float]) -> Row:
        ratios = [a / b for a, b in zip(ours, theirs, strict=False)]
        must, moonshot = None, None
        if rival.has_target and not self._quick:
            must, moonshot = TARGETS.get((self.model, job.name), (None, None))
        row = Row(
            name=f"{self.model} {job.name}",
            value=median(ours),
            unit="tokens/s",
            peer=rival.name(),
            peer_value=median(theirs),
            rounds=len(theirs),
            low=min(ratios),
            high=max(ratios),
            must=must,
            moonshot=moonshot,
            judge="ratio",
        )
        say_row(row)
        return row


def jobs_of(model: str, *, quick: bool, rounds: int, long_rounds: int) -> list[Job]:
    """What one checkpoint does, in an order in which long contexts are read once."""
    if quick:
        return [
            Job("prefill", 512, 512, 2, 1),
            Job("decode", 16, DECODE_PROMPT, 2, 2),
            Job("streams", 8, STREAMS, 2, 2),
            Job("decode", 8, 1_024, 2, 0),
        ]
    has_target = (model, f"prefill {LONG}") in TARGETS
    return [
        Job("prefill", 512, 512, rounds, rounds),
        Job("decode", 64, DECODE_PROMPT, rounds, rounds),
        Job("streams", 32, STREAMS, rounds, rounds),
        Job("prefill", LONG, LONG, long_rounds if has_target else 1, 1),
        Job("decode", 32, LONG, rounds, 1),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--long-rounds", type=int, default=3, help=f"of reading {LONG:,} tokens")
    parser.add_argument("--ik", type=Path, help="llama-bench of ik_llama.cpp")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="few tokens and rounds, no file")
    args = parser.parse_args(arguments)
    rows: list[Row] = []
    ceilings = measure(thread_count()[0]) if "products" in args.parts else None
    if ceilings is not None:
        say(f"{ceilings}")
    for model in args.models:
        if ceilings is not None:
            rows += product_rows(model, ceilings, args)
        if "cache" in args.parts:
            rows += compare_caches(
                model,
                FORMATS[model],
                LONG if not args.quick else 2_000,
                rounds=args.rounds if not args.quick else 1,
                long_rounds=args.long_rounds if not args.quick else 1,
            )
        if not args.quick:  # what is there is kept if the next checkpoint fails
            merged = with_kept(rows, args.models, args.parts)
            write_results("kernels", merged, [sys.argv[0], *(arguments or sys.argv[1:])])
            draw_ratios(merged, RESULTS / "kernels.svg")


def product_rows(model: str, ceilings: Ceilings, args: argparse.Namespace) -> list[Row]:
    """All but the quantised cache."""
    bench = Bench(model, args.ik, quick=args.quick)
    rows: list[Row] = []
    try:
        jobs = jobs_of(model, quick=args.quick, rounds=args.rounds, long_rounds=args.long_rounds)
        for job in jobs:
            rows += bench.compare(job)
        rows += bench.widths(8 if args.quick else 32, 2 if args.quick else args.rounds)
        rows += bench.roofline(ceilings)
        rows += bench.memory()
    finally:
        bench.close()
    return rows


def with_kept(rows: Sequence[Row], models: Sequence[str], parts: Sequence[str]) -> list[Row]:
    """New rows behind those of the file that nothing new was measured for, by checkpoint."""
    kept = [row for row in read_rows("kernels") if not _is_asked_for(row, models, parts)]
    return sorted([*kept, *rows], key=lambda row: list(FORMATS).index(row.name.split()[0]))


def _is_asked_for(row: Row, models: Sequence[str], parts: Sequence[str]) -> bool:
    return row.name.split()[0] in models and PARTS[is_of_cache(row)] in parts


if __name__ == "__main__":
    main()
