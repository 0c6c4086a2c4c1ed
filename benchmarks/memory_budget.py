"""What a memory budget computes beside what a process really holds, in each number format.

    python benchmarks/memory_budget.py [--window 8192]

SmolLM2-135M in int8 reads a prompt that fills the context window and answers, in a process of its
own for each format of keys and values. The peak that was computed before loading must not be
passed by more than 2 %. Writes benchmarks/results/memory_budget.json, .md.
"""

import argparse
import json
import subprocess
import sys

from deepseek.core.llm import SamplingParams
from deepseek.core.memory import peak_bytes
from deepseek.engine.loader import load_engine
from deepseek.model.budget import KV_FORMATS
from report import Row, write_results

MODEL = "smollm2-135m"
BUDGET = 4 << 30  # more than is needed: pools are reserved, and memory counts once it is written
ANSWER = 16
TOLERANCE = 1.02
MIB = 1 << 20


def measured(kv_format: str, window: int) -> dict[str, int]:
    """Peaks of this process in bytes, and what its cache reserves for the window."""
    engine, _ = load_engine(
        MODEL,
        context_window=window,
        kv_dtype=kv_format,  # type: ignore[arg-type]
        memory_budget=BUDGET,
    )
    budget, text = engine.runner.budget, "The grass is green and the sky is blue. " * window
    assert budget is not None, "one was given"
    # What is decoded may be encoded in a few more tokens.
    prompt = engine.decode(engine.encode(text)[: window - 2 * ANSWER])
    answer = engine.generate(prompt, SamplingParams(max_tokens=ANSWER))
    assert answer.n_prompt_tokens + ANSWER > 0.99 * window
    return {"computed": budget.peak_bytes, "measured": peak_bytes()}


def row_of(kv_format: str, window: int) -> Row:
    """Both in a fresh process."""
    command = [sys.executable, __file__, "--window", str(window), "--only", kv_format]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    print(kv_format, *(f"{kind} {size / MIB:,.0f} MiB" for kind, size in found.items()))
    return Row(
        f"peak of {window:,} tokens in {kv_format}",
        found["measured"] / MIB,
        "MiB",
        "computed before loading",
        found["computed"] / MIB,
        must=TOLERANCE,
        better="lower",
        judge="ratio",
    )


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, default=8_192)
    parser.add_argument("--only", choices=KV_FORMATS, help="measure this process, print JSON")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measured(args.only, args.window)))
        return
    rows = [row_of(kv_format, args.window) for kv_format in KV_FORMATS]
    write_results("memory_budget", rows, sys.argv)


if __name__ == "__main__":
    main()
