"""The engine at work: speculation, follow-ups, many requests at once, shared pages, equal bits.

    python benchmarks/engine.py [--quick] [--models smollm2-135m] [--parts follow-up streams]
                                [--server LLAMA_SERVER] [--runs 1000]

Ours and llama.cpp's server (`--server` names a natively built `llama-server`; without it those
rows are left out) read the same file with the same threads and take turns. Parts:

* speculation: copying work and open chat, against plain decoding and llama.cpp's best speculation;
* follow-up, restart: the first token of a conversation's next turn, from memory and from a folder;
* streams: eight whole requests at once;
* inside, roofline: the share of time in the model's passes, and of the machine's ceilings;
* shared: pages of sixteen sessions with a common beginning;
* sameness: distinct answers to one prompt among ever other requests (`--runs`).

What the engine cannot do yet is left out with a message. Each part keeps its rows in out/engine;
a run writes benchmarks/results/engine.json and .md from all parts that are there (not with
--quick, which keeps nothing).
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path

from deepseek.weights.pull import ensure
from drafting import speculation_rows
from report import ROOT, Row, commit, say, write_results
from saturation import BATCHES, inside_rows, roofline_rows, stream_rows
from sessions import RUNS, sameness_rows, shared_rows
from turns import HISTORY, follow_up_rows, restart_rows

FORMATS = {"smollm2-135m": "Q4_1", "qwen2.5-coder-1.5b": "Q4_K_M"}
KEPT = ROOT / "out" / "engine"
PARTS = (
    *("speculation", "follow-up", "restart", "streams"),
    *("inside", "roofline", "shared", "sameness"),
)


def parts_of(model: str, args: argparse.Namespace) -> dict[str, Callable[[], list[Row]]]:
    """How each part measures a checkpoint."""
    quick, path = args.quick, ensure(model).path
    rounds = 1 if quick else args.rounds
    history = (500,) if quick else HISTORY
    return {
        "speculation": partial(
            *(speculation_rows, model, path, args.server),
            rounds=rounds,
            most=48 if quick else 1_024,
            quick=quick,
        ),
        "follow-up": partial(
            follow_up_rows, model, path, args.server, rounds=rounds, history=history
        ),
        "restart": partial(restart_rows, model, rounds=rounds, history=history),
        "streams": partial(
            *(stream_rows, model, path, args.server, FORMATS[model]),
            rounds=rounds,
            n_tokens=8 if quick else 128,
            batches=BATCHES[:1] if quick else BATCHES,
        ),
        "inside": partial(inside_rows, model, rounds=rounds, n_tokens=8 if quick else 64),
        "roofline": partial(roofline_rows, model, rounds=rounds),
        "shared": partial(shared_rows, model),
        "sameness": partial(sameness_rows, model, runs=20 if quick else args.runs),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=RUNS, help="of the part sameness")
    parser.add_argument("--server", type=Path, default=os.environ.get("LLAMA_SERVER") or None)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round, no file")
    args = parser.parse_args(arguments)
    if args.server is None:
        say("no llama-server is named: rows beside it are left out")
    for model in args.models:
        parts = parts_of(model, args)
        for part in args.parts:
            say(f"{model}: {part}")
            rows = parts[part]()
            if not args.quick and rows:  # what is there is kept if the next part fails
                keep(part, model, rows)
                write_results("engine", all_kept(), [sys.argv[0], *(arguments or sys.argv[1:])])


def keep(part: str, model: str, rows: Sequence[Row], folder: Path = KEPT) -> None:
    """Rows of one part, in place of those from an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    now = f"{commit()}, {date.today().isoformat()}"
    dated = [asdict(replace(row, measured=row.measured or now)) for row in rows]
    file = folder / f"{model}.{part}.json"
    half = file.with_suffix(".part")
    half.write_text(json.dumps(dated, indent=1), encoding="utf-8")
    half.replace(file)


def all_kept(folder: Path = KEPT) -> list[Row]:
    """Rows of all parts from this run and earlier ones."""
    now = f"{commit()}, {date.today().isoformat()}"
    rows = []
    for model in FORMATS:
        for part in PARTS:
            file = folder / f"{model}.{part}.json"
            if file.exists():
                found = [Row(**row) for row in json.loads(file.read_text(encoding="utf-8"))]
                rows += [replace(r, measured=None) if r.measured == now else r for r in found]
    return rows


if __name__ == "__main__":
    main()
