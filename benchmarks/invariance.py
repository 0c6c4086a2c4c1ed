"""What it costs that a token's numbers never change: the library beside one that adds up freely.

    python benchmarks/invariance.py [--quick] [--models smollm2-135m] [--fixed LIB] [--free LIB]

`make bench-invariance` builds both from the same sources with the same compiler; the free one has
`-DFREE_ORDER=ON`. Both are loaded into one process and take turns on the same packed weights and
the same pages, so that only their code differs. A copy of the fixed one takes turns, too: how far
it is from the original is noise. A round is the median of a few turns of each. Writes
benchmarks/results/invariance.json and .md (not with --quick).
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.core.threads import thread_count
from deepseek.engine.loader import load_engine
from deepseek.engine.runner import CHUNK
from deepseek.model.decoder import NativeDecoder
from deepseek.model.pages import PagedSequence
from deepseek.model.transformer import Transformer
from deepseek.ops import native
from peers import source_ids
from report import ROOT, Row, say_row, write_results

LIBRARIES = ROOT / "build"
NAME = "deepseek_native.so"
LONG = 8_000
STREAMS, PROMPT = 8, 128
MUST = 5.0
"""Most that it may cost, in percent."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is timed."""

    kind: str
    n_tokens: int
    context: int = 0

    @property
    def name(self) -> str:
        """For people."""
        if self.kind == "streams":
            return f"{STREAMS} streams, {self.n_tokens} each"
        return f"{self.kind} {self.n_tokens}" + (f" at {self.context}" if self.context else "")


JOBS = {
    "smollm2-135m": (
        Job("prefill", 512),
        Job("decode", 64),
        Job("decode", 32, 1_000),
        Job("streams", 16),
        Job("decode", 32, LONG),
    ),
    "qwen2.5-coder-1.5b": (Job("decode", 16), Job("streams", 8), Job("decode", 16, LONG)),
}
QUICK = (Job("prefill", 256), Job("decode", 16), Job("streams", 4), Job("decode", 8, 2_000))


class Side:
    """One build of the library with a decoder of its own."""

    def __init__(self, library: Path, model: Transformer, n_threads: int) -> None:
        """Load it.

        Raises:
            ConfigError: It is not there, or of another version.
        """
        os.environ["DEEPSEEK_NATIVE"] = str(library)
        native.library.cache_clear()
        if not native.is_available():
            raise ConfigError(f"no library of this version: {library}", "make bench-invariance")
        native.use_threads(n_threads)
        self.library = native.library()
        self.decoder = NativeDecoder(model)

    @torch.inference_mode()
    def run(self, rows: Sequence[Sequence[int]], sequences: Sequence[PagedSequence]) -> Tensor:
        """Append as many tokens to each; the logits after the last ones."""
        count = len(rows[0])
        return self.decoder.logits(self.decoder.run(rows, sequences)[count - 1 :: count])


class Bench:
    """One checkpoint, whose packed weights and pages all sides use."""

    def __init__(self, model: str, libraries: Sequence[Path]) -> None:
        n_threads = thread_count()[0]
        os.environ["DEEPSEEK_NATIVE"] = str(libraries[0])
        native.library.cache_clear()
        engine, _ = load_engine(model, dtype="int8", threads=n_threads)
        self.model = model
        self._ids = source_ids(engine.tokenizer.encode, LONG + PROMPT)
        transformer = engine.runner.model
        self.sides = [Side(library, transformer, n_threads) for library in libraries]
        for side in self.sides[1:]:
            side.decoder.pool = self.sides[0].decoder.pool
        self.sequence = self.sides[0].decoder.sequence()

    def compare(self, job: Job, n_rounds: int, n_turns: int) -> list[list[float]]:
        """Seconds of each side in each round: the median of some turns."""
        run = self._prepared(job)
        for side in self.sides:
            run(side)  # warm
        seconds: list[list[float]] = [[] for _ in self.sides]
        for _ in range(n_rounds):
            turns: list[list[float]] = [[] for _ in self.sides]
            for number in range(n_turns):
                order = range(len(self.sides))
                for i in order if number % 2 == 0 else reversed(order):
                    turns[i].append(run(self.sides[i]))
            for found, times in zip(seconds, turns, strict=True):
                found.append(median(times))
        return seconds

    def _prepared(self, job: Job) -> Callable[[Side], float]:
        """A timed run on any side; what it goes on from is read now."""
        first = self.sides[0]
        if job.kind == "streams":
            step = LONG // STREAMS
            prompts = [self._ids[i * step : i * step + PROMPT] for i in range(STREAMS)]
            sequences = [first.decoder.sequence() for _ in prompts]
            first.run(prompts, sequences)
            return lambda side: timed_steps(side, sequences, self._ids[-job.n_tokens :])
        if job.kind == "prefill":
            prompt = self._ids[: job.n_tokens]
            return lambda side: timed_prompt(side, self.sequence, prompt)
        for start in range(self.sequence.length, job.context, CHUNK):
            first.run([self._ids[start : min(start + CHUNK, job.context)]], [self.sequence])
        self.sequence.truncate(job.context)
        return lambda side: timed_steps(side, [self.sequence], self._ids[-job.n_tokens :])


def timed_steps(side: Side, sequences: Sequence[PagedSequence], token_ids: Sequence[int]) -> float:
    """Seconds to append tokens one by one to each, which are forgotten again."""
    length = sequences[0].length
    start = time.perf_counter()
    for token in token_ids:
        side.run([[token]] * len(sequences), sequences)
    seconds = time.perf_counter() - start
    for sequence in sequences:
        sequence.truncate(length)
    return seconds


def timed_prompt(side: Side, sequence: PagedSequence, token_ids: Sequence[int]) -> float:
    """Seconds to read a prompt from scratch."""
    sequence.truncate(0)
    start = time.perf_counter()
    side.run([token_ids], [sequence])
    seconds = time.perf_counter() - start
    sequence.truncate(0)
    return seconds


def rows_of(
    model: str, job: Job, seconds: Sequence[Sequence[float]], must: float | None
) -> list[Row]:
    """What invariance costs, what a copy costs (noise), and both rates."""
    fixed, free, copy = seconds
    n_tokens = job.n_tokens * (STREAMS if job.kind == "streams" else 1)
    name = f"{model} {job.name}"
    costs, noise = (
        [100 * (a / b - 1) for a, b in zip(fixed, other, strict=True)] for other in (free, copy)
    )
    ratios = [b / a for a, b in zip(fixed, free, strict=True)]
    return [
        Row(
            name=f"{name}: cost of invariance",
            value=median(costs),
            unit="% of time",
            rounds=len(costs),
            low=min(costs),
            high=max(costs),
            must=must,
            better="lower",
        ),
        Row(
            name=f"{name}: the same library against its copy (noise)",
            value=median(noise),
            unit="% of time",
            rounds=len(noise),
            low=min(noise),
            high=max(noise),
        ),
        Row(
            name=name,
            value=n_tokens / median(fixed),
            unit="tokens/s",
            peer="free order of sums",
            peer_value=n_tokens / median(free),
            rounds=len(ratios),
            low=min(ratios),
            high=max(ratios),
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--fixed", type=Path, default=LIBRARIES / "fixed" / NAME)
    parser.add_argument("--free", type=Path, default=LIBRARIES / "free" / NAME)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--turns", type=int, default=5, help="of each side in a round")
    parser.add_argument("--quick", action="store_true", help="few tokens and rounds, no file")
    args = parser.parse_args(arguments)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(args.fixed, folder))
        for model in args.models:
            bench = Bench(model, [args.fixed, args.free, copy])
            for job in QUICK if args.quick else JOBS[model]:
                n_rounds, n_turns = (2, 2) if args.quick else (args.rounds, args.turns)
                seconds = bench.compare(job, n_rounds, n_turns)
                rows += rows_of(model, job, seconds, None if args.quick else MUST)
                for row in rows[-3:]:
                    say_row(row)
            if not args.quick:  # what is there is kept if the next checkpoint fails
                write_results("invariance", rows, [sys.argv[0], *(arguments or sys.argv[1:])])


if __name__ == "__main__":
    main()
