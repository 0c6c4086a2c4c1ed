"""Memory, time and what is found far beyond the trained length.

    python benchmarks/far_memory.py [--length 1000000] [--kv-dtype int4] [--kv-disk DIR]

SmolLM2-135M in int8 reads filler in which a pass key is hidden, the deepest first, so that the next
text is read from where they differ. Tokens are generated after a tenth of the text and at its end,
in one run. The peer in memory is dense attention with keys and values in
bfloat16, by arithmetic: what the process holds before reading, and bytes a token; `--parts dense`
reads up to 64,000 tokens densely and compares that with what the process then holds.

Results go to benchmarks/results/far_memory.*; `benchmarks/long_context.py` takes them in.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from statistics import median

from deepseek.core.llm import SamplingParams
from deepseek.core.memory import peak_bytes, resident_bytes
from deepseek.engine import single
from deepseek.engine.answer import Answer
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.tokenizer.prompt import encode_prompt
from passkey import ROOM, passkey_at
from report import ROOT, Row, write_results

MODEL = "smollm2-135m"
KEPT = ROOT / "out" / "far_memory"
CHUNK = 1_024
STEPS, ROUNDS = 16, 5
"""Generated tokens that are timed together, and how often."""
DENSE = (8_000, 16_000, 32_000, 64_000)
SAVED, OFF, FOUND, GROWTH = (62.0, 95.0), (3.0, None), (0.95, 1.0), (2.0, 1.2)
"""What must be, and what would be more: memory saved in %, the formula's error in %, share of keys
found in a million tokens, a token's time in that at a tenth of the length."""


def dense_bytes(engine: Engine, n_tokens: int) -> int:
    """Of keys and values in bfloat16."""
    config = engine.runner.model.config
    return n_tokens * config.n_layers * config.n_kv_heads * config.d_head * 2 * 2


def validate(engine: Engine) -> list[Row]:
    """Read densely, and compare what the process holds with the formula."""
    ours = engine.runner
    dense = NativeRunner(ours.model, dtype=ours.dtype, device=ours.device)
    ids = engine.encode(passkey_at(max(DENSE), 0.5, engine.count_tokens).prompt)
    before = resident_bytes()
    rows = []
    for length in DENSE:
        dense.fill(ids[: min(length, len(ids))])
        held = resident_bytes()
        wanted = before + dense_bytes(engine, len(dense.tokens))
        error = 100 * abs(held / wanted - 1)
        print(f"{length:,} tokens: {held / 2**20:,.0f} MiB, {wanted / 2**20:,.0f} by the formula")
        must, moonshot = OFF
        rows.append(
            Row(
                f"dense attention, {length:,} tokens: the formula is off by",
                error,
                "%",
                must=must,
                moonshot=moonshot,
                better="lower",
            )
        )
    return rows


def step_ms(runner: NativeRunner) -> list[float]:
    """Milliseconds of a generated token after what is in the cache, in some rounds."""
    length = len(runner.tokens)
    runner.asks_from = length
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for token in range(STEPS):
            runner.step(1_000 + token)
        times.append((time.perf_counter() - start) * 1e3 / STEPS)
        runner.rewind(length)
    return times


def read_far(
    engine: Engine, length: int, depths: Sequence[float], about: str
) -> Iterator[tuple[list[Row], dict[float, bool]]]:
    """Read, time and ask; rows, and the keys found after each depth, the deepest first."""
    runner = engine.runner
    assert isinstance(runner, NativeRunner), "the native library"
    runner.tree = None
    before, start, said = resident_bytes(), time.perf_counter(), [0.0]

    def tell(done: int, _: int) -> None:
        now = time.perf_counter() - start
        if now - said[0] > 60:
            said[0] = now
            print(f"{done:,} tokens, {now:,.0f} s, {peak_bytes() / 2**20:,.0f} MiB", flush=True)

    engine.on_prefill = tell
    rows: list[Row] = []
    found: dict[float, bool] = {}
    for depth in sorted(depths, reverse=True):
        item = passkey_at(length, depth, engine.count_tokens)
        if not rows:
            ids = encode_prompt(engine.tokenizer, item.prompt)
            name = f"{length:,} tokens ({about}; read {len(ids):,})"
            rows = time_reading(runner, ids, tell, name)
            dense = before + dense_bytes(engine, len(ids))
            yield [*rows, *memory_rows(name, peak_bytes(), dense)], found
        start, said[0] = time.perf_counter(), 0.0
        # On the sequence that was read: the scheduler would read it again beside that one.
        asked = encode_prompt(engine.tokenizer, item.prompt)
        answer = Answer(engine.tokenizer, SamplingParams(max_tokens=ROOM), asked)
        for _ in single.generate(runner, answer, asked, tell):
            pass
        found[depth] = item.is_found(answer.text)
        seconds = time.perf_counter() - start
        print(f"{depth:.2f}", item.key, repr(answer.text), f"{seconds:.0f} s")
        yield [*rows, *memory_rows(name, peak_bytes(), dense)], found


def keys_row(name: str, found: dict[float, bool]) -> Row:
    """The share of keys that were found, at all depths that were tried so far."""
    tried = ", ".join(f"{depth:.2f}" for depth in sorted(found))
    return Row(
        f"{name}: pass keys found (depths {tried})",
        sum(found.values()) / len(found),
        "share",
        rounds=len(found),
        must=FOUND[0],
        moonshot=FOUND[1],
    )


def time_reading(
    runner: NativeRunner, ids: list[int], tell: Callable[[int, int], None], name: str
) -> list[Row]:
    """Read all, and generate after a tenth and at the end."""
    near_length = len(ids) // 10 // CHUNK * CHUNK
    start = time.perf_counter()
    runner.fill(ids[:near_length])
    seconds = time.perf_counter() - start
    near = step_ms(runner)
    start = time.perf_counter()
    runner.fill(ids, tell)
    seconds += time.perf_counter() - start
    far = step_ms(runner)
    growth = [b / a for a, b in zip(near, far, strict=True)]
    at_end = Row(
        f"{name}: a token at the end",
        median(far),
        "ms",
        f"after {near_length:,}",
        median(near),
        median(growth),
        ROUNDS,
        min(growth),
        max(growth),
        GROWTH[0],
        GROWTH[1],
        "lower",
        "ratio",
    )
    return [Row(f"{name}: reading", len(ids) / seconds, "tokens/s"), at_end]


def memory_rows(name: str, peak: int, dense: int) -> list[Row]:
    """What the process took at most, in that of dense attention."""
    saved = 100 * (1 - peak / dense)
    return [
        Row(
            f"{name}: peak memory",
            peak / 2**20,
            "MiB",
            "dense attention in bfloat16, by the formula",
            dense / 2**20,
            better="lower",
        ),
        Row(f"{name}: peak memory saved", saved, "%", must=SAVED[0], moonshot=SAVED[1]),
    ]


def main() -> None:
    """Run the parts that were asked for and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=1_000_000)
    parser.add_argument("--kv-dtype", default="int4", choices=("bfloat16", "int8", "int4"))
    parser.add_argument("--kv-disk", help="folder for keys and values behind the window")
    parser.add_argument("--depths", type=float, nargs="+", default=[0.05, 0.35, 0.65, 0.95])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--parts", nargs="+", default=["dense", "far"], choices=("dense", "far"))
    args = parser.parse_args()
    about = args.kv_dtype + (" on disk" if args.kv_disk else "")
    options = {"kv_disk": args.kv_disk} if args.kv_disk else {}
    KEPT.mkdir(parents=True, exist_ok=True)
    if "dense" in args.parts:
        engine, _ = load_engine(MODEL, context_window=args.length + 1_000)
        keep("dense", validate(engine))
    if "far" in args.parts:
        engine, _ = load_engine(
            MODEL,
            context_window=args.length + 1_000,
            kv_dtype=args.kv_dtype,
            threads=args.threads,
            **options,
        )
        kept = f"{args.length} {about}".replace(" ", "-")
        for rows, found in read_far(engine, args.length, args.depths, about):
            keep(f"far-{kept}", rows)
            if found := remember(f"keys-{kept}", found):
                keep(f"found-{kept}", [keys_row(f"{args.length:,} tokens ({about})", found)])


def remember(name: str, found: dict[float, bool]) -> dict[float, bool]:
    """Add keys to those of earlier runs: ten depths of a million tokens take hours."""
    path = KEPT / "keys" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        found = {float(depth): is_found for depth, is_found in earlier.items()} | found
    path.write_text(json.dumps(found), encoding="utf-8")
    return found


def keep(name: str, rows: Sequence[Row]) -> None:
    """Write the rows of one part beside those of others."""
    written = json.dumps([asdict(row) for row in rows])
    (KEPT / f"{name}.json").write_text(written, encoding="utf-8")
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(KEPT.glob("*.json"))]
    write_results("far_memory", [Row(**row) for part in parts for row in part], sys.argv)


if __name__ == "__main__":
    main()
