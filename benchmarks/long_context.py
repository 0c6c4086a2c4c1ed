"""Reading far beyond the trained length: what is found, how fast, and in how much memory.

    python benchmarks/long_context.py [--lengths 32000 100000] [--depths 10] [--rounds 5]

SmolLM2-135M in int8, everything after the first 4,096 tokens read hierarchically. Three parts:

* pass keys at evenly spaced depths; the first number of the answer must be the key;
* reading speed beside the same model's dense attention in the same process, taking turns. Where
  dense attention would take too long (over 40,000 tokens) its time is the sum of a line through
  chunks timed at several lengths, and the row says so;
* seconds a generated token at each length.

Each part writes its rows to out/long_context as it ends; a run writes
benchmarks/results/long_context.json, .md from all parts that are there (`--parts` picks some, or
none).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch

from deepseek.core.llm import SamplingParams
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
from passkey import FILLER, ROOM, passkeys
from report import RESULTS, ROOT, Row, write_results

MODEL = "smollm2-135m"
KEPT = ROOT / "out" / "long_context"
OTHER_NAMES = ("far_peer", "far_needles", "far_memory", "long_accuracy")
OTHERS = [RESULTS / f"{name}.json" for name in OTHER_NAMES]
"""What other scripts have written; taken in as it is."""
ROUTING = RESULTS / "routing.json"
"""What a router learns from dense attention; taken in is how much of its gap it closes."""
CHUNK = 1_024
STEPS = 32
"""Generated tokens that are timed together."""
WHOLE = 40_000
"""Tokens up to which dense attention reads all."""
PASSKEY = {100_000: (1.0, 1.0), 1_000_000: (0.95, 1.0)}
PREFILL = {8_000: (0.95, 1.0), 32_000: (1.8, 2.5), 100_000: (5.0, 7.0)}
GROWTH = (2.0, 1.2)
"""Most that a token may take at the longest length, in those at a tenth of it."""


def passkey_rows(engine: Engine, lengths: Sequence[int], n_depths: int) -> list[Row]:
    """Share of keys found at each length."""
    rows = []
    for length in lengths:
        n_found, n_read = 0, 0
        # The deepest first: each text begins like the one before, up to its own key.
        for item in reversed(list(passkeys(length, n_depths, engine.count_tokens))):
            start = time.perf_counter()
            answer = engine.generate(item.prompt, SamplingParams(max_tokens=ROOM))
            seconds = time.perf_counter() - start
            n_found += item.is_found(answer.text)
            n_read = answer.n_prompt_tokens
            print(length, f"{item.depth:.2f}", item.key, repr(answer.text), f"{seconds:.0f} s")
        must, moonshot = PASSKEY.get(length, (None, None))
        name = f"pass keys found in {length:,} tokens ({n_depths} depths; read {n_read:,})"
        rows.append(
            Row(name, n_found / n_depths, "share", rounds=n_depths, must=must, moonshot=moonshot)
        )
    return rows


def runners(engine: Engine) -> tuple[NativeRunner, NativeRunner]:
    """The engine's, and one with dense attention; both over the same weights."""
    ours = engine.runner
    assert isinstance(ours, NativeRunner), "the native library"
    ours.tree = None  # each reading is one from nothing
    return ours, NativeRunner(ours.model, dtype=ours.dtype, device=ours.device)


def prefill_rows(engine: Engine, lengths: Sequence[int], n_rounds: int) -> list[Row]:
    """Tokens a second of both, taking turns."""
    ours, dense = runners(engine)
    rows = []
    for length in lengths:
        ids = text_of(engine, length)
        rounds = n_rounds if length <= WHOLE else max(2, n_rounds // 2)
        timed: list[tuple[float, float]] = []
        for _ in range(rounds):
            read = whole_seconds if length <= WHOLE else line_seconds
            timed.append((length / whole_seconds(ours, ids), length / read(dense, ids)))
            print(length, "read with", *(f"{rate:.0f}" for rate in timed[-1]), "tokens/s")
        ratios = [ours_rate / dense_rate for ours_rate, dense_rate in timed]
        must, moonshot = PREFILL.get(length, (None, None))
        rows.append(
            Row(
                f"reading {length:,} tokens",
                median(rate for rate, _ in timed),
                "tokens/s",
                "own dense attention" + ("" if length <= WHOLE else " (line through chunks)"),
                median(rate for _, rate in timed),
                median(ratios),
                rounds,
                min(ratios),
                max(ratios),
                must,
                moonshot,
                judge="ratio",
            )
        )
    return rows


def decode_rows(engine: Engine, lengths: Sequence[int], n_rounds: int) -> list[Row]:
    """Milliseconds of a generated token after each length."""
    ours, _ = runners(engine)
    rows: list[Row] = []
    for length in sorted(lengths):
        ours.fill(text_of(engine, length))
        ours.asks_from = length
        times = [step_seconds(ours, length) * 1e3 for _ in range(n_rounds)]
        print(length, "a token takes", f"{median(times):.1f} ms")
        rows.append(
            Row(
                f"a token after {length:,}",
                median(times),
                "ms",
                rounds=n_rounds,
                low=min(times),
                high=max(times),
                better="lower",
            )
        )
    return rows


def text_of(engine: Engine, length: int) -> list[int]:
    """Filler in which no page is like another: each sentence has its number."""
    ids: list[int] = []
    number = 0
    while len(ids) < length:
        ids += engine.encode(f"{number}. {FILLER}\n")
        number += 1
    return ids[:length]


def whole_seconds(runner: NativeRunner, ids: list[int]) -> float:
    """To read all tokens from nothing."""
    runner.rewind(0)
    start = time.perf_counter()
    runner.fill(ids)
    return time.perf_counter() - start


def line_seconds(runner: NativeRunner, ids: list[int]) -> float:
    """To read all tokens, from chunks in the first `WHOLE`: a chunk's time grows with its place."""
    runner.rewind(0)
    places, seconds = [], []
    for place in range(0, WHOLE, CHUNK):
        start = time.perf_counter()
        runner.fill(ids[: place + CHUNK])
        seconds.append(time.perf_counter() - start)
        places.append(float(place))
    design = torch.stack((torch.ones(len(places)), torch.tensor(places)), 1).double()
    line = torch.linalg.lstsq(design, torch.tensor(seconds).double()[:, None]).solution[:, 0]
    starts = torch.arange(0, len(ids), CHUNK).double()
    return float((line[0] + line[1] * starts).sum())


def step_seconds(runner: NativeRunner, length: int) -> float:
    """Of one generated token."""
    start = time.perf_counter()
    for token in range(STEPS):
        runner.step(1_000 + token)
    seconds = time.perf_counter() - start
    runner.rewind(length)
    return seconds / STEPS


def main() -> None:
    """Run the parts that were asked for and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[8_000, 32_000, 100_000])
    parser.add_argument("--depths", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", nargs="*", default=["passkey", "prefill", "decode"])
    args = parser.parse_args()
    parts: dict[str, Callable[[Engine], list[Row]]] = {
        "passkey": lambda engine: passkey_rows(engine, args.lengths, args.depths),
        "prefill": lambda engine: prefill_rows(engine, args.lengths, args.rounds),
        "decode": lambda engine: decode_rows(engine, args.lengths, args.rounds),
    }
    if args.parts:
        loaded, _ = load_engine(MODEL, context_window=max(args.lengths) + 1_000)
        for part in args.parts:
            keep(KEPT / f"{part}.json", parts[part](loaded))
    rows = [row for part in parts for row in kept(part)]
    for other in OTHERS:
        rows += written(other)
    for row in written(ROUTING):
        if row.must is not None:
            row.name = f"router distilled from dense attention: {row.name}"
            rows.append(row)
    write_results("long_context", rows, sys.argv)


def written(path: Path) -> list[Row]:
    """Rows that another benchmark has written."""
    if not path.exists():
        return []
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def keep(path: Path, rows: Sequence[Row]) -> None:
    """Rows of one part, beside those of other lengths from runs before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    earlier = {row.name: row for row in kept(path.stem)}
    merged = earlier | {row.name: row for row in rows}
    path.write_text(json.dumps([asdict(row) for row in merged.values()]), encoding="utf-8")


def kept(part: str) -> list[Row]:
    """Rows of one part from this run or an earlier one."""
    path = KEPT / f"{part}.json"
    return [Row(**row) for row in json.loads(path.read_text())] if path.exists() else []


if __name__ == "__main__":
    main()
