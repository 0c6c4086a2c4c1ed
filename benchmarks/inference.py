"""Prefill and decode through torch in bfloat16 beside llama.cpp: same files, taking turns.

    python benchmarks/inference.py [--quick] [--models smollm2-135m qwen2.5-coder-1.5b]

llama.cpp runs with the batch size and attention that are fastest here, chosen per kind of job
beforehand. Writes benchmarks/results/inference.json and .md (not with --quick).
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from importlib.metadata import version
from statistics import median
from typing import Any

from deepseek.core.threads import thread_count
from deepseek.weights.pull import ensure
from peers import Worker
from report import Row, write_results

FORMATS = {"smollm2-135m": "Q4_1", "qwen2.5-coder-1.5b": "Q4_K_M"}
MUSTS = {("smollm2-135m", "prefill", 2_000): 2.0}
MUSTS |= {("qwen2.5-coder-1.5b", "prefill", n): 1.0 for n in (512, 2_000)}
VARIANTS: tuple[dict[str, Any], ...] = tuple(
    {"n_batch": size, "n_ubatch": size, "flash_attn": flash}
    for size, flash in itertools.product((512, 2_048), (False, True))
)
LONG = 8_000


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--rounds", type=int, default=5, help="rounds; 8,000 tokens take three")
    parser.add_argument("--quick", action="store_true", help="few tokens and rounds, no file")
    args = parser.parse_args(arguments)
    rows: list[Row] = []
    for model in args.models:
        rows += compare(model, quick=args.quick, rounds=args.rounds)
    if not args.quick:
        write_results("inference", rows, sys.argv)


def compare(model: str, *, quick: bool, rounds: int) -> list[Row]:
    """All jobs of one checkpoint."""
    jobs = [("prefill", 512), ("prefill", 2_000), ("prefill", LONG), ("decode", 64)]
    if quick:
        jobs = [("prefill", 512), ("decode", 16)]
    path, (n_threads, _) = ensure(model).path, thread_count()
    best = {
        "prefill": best_variant(model, ("prefill", 512 if quick else 2_000)),
        "decode": best_variant(model, ("decode", 16 if quick else 32)),
    }
    ours = Worker("ours", path, n_threads, dtype="bfloat16")
    theirs = {
        str(variant): Worker("llama.cpp", path, n_threads, **variant) for variant in best.values()
    }
    rows = []
    for job, n_tokens in jobs:
        n_rounds = 2 if quick else min(rounds, 3) if n_tokens == LONG else rounds
        peer = theirs[str(best[job])]
        pairs = [(ours.rate(job, n_tokens), peer.rate(job, n_tokens)) for _ in range(n_rounds)]
        rows.append(row_of(model, job, n_tokens, pairs, peer.settings))
    for worker in (ours, *theirs.values()):
        worker.close()
    return rows


def best_variant(model: str, job: tuple[str, int]) -> dict[str, Any]:
    """llama.cpp's fastest settings for a kind of job: the better of two runs each."""
    path, (n_threads, _) = ensure(model).path, thread_count()
    rates = []
    for variant in VARIANTS:
        worker = Worker("llama.cpp", path, n_threads, **variant)
        rates.append(max(worker.rate(*job) for _ in range(2)))
        worker.close()
        say(f"{model} {job[0]} {job[1]}: llama.cpp {variant} {rates[-1]:.1f} tokens/s")
    return VARIANTS[rates.index(max(rates))]


def row_of(
    model: str, job: str, n_tokens: int, pairs: list[tuple[float, float]], settings: dict[str, Any]
) -> Row:
    """Medians of both, and the range of the ratio over the rounds."""
    ratios = [ours / theirs for ours, theirs in pairs]
    flags = ", ".join(f"{name}={value}" for name, value in settings.items())
    row = Row(
        name=f"{model} {job} {n_tokens}",
        value=median(ours for ours, _ in pairs),
        unit="tokens/s",
        peer=f"llama-cpp-python {version('llama-cpp-python')}, {FORMATS[model]}, {flags}",
        peer_value=median(theirs for _, theirs in pairs),
        rounds=len(pairs),
        low=min(ratios),
        high=max(ratios),
        must=MUSTS.get((model, job, n_tokens)),
        judge="ratio",
    )
    say(
        f"{row.name}: {row.value:.1f} tokens/s, llama.cpp {row.peer_value:.1f}, "
        f"ratio {row.ratio:.2f} ({row.low:.2f} – {row.high:.2f})"
    )
    return row


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
