"""Reading a long text, and generating after it, beside llama.cpp.

    python benchmarks/far_peer.py [--length 32000] [--rounds 5] [--prefill-rounds 1]

The same GGUF file (SmolLM2-135M, Q4_1) and the same threads; beyond half the trained length our
tokens see what they choose by memory nodes and keys, those of llama.cpp see everything. Tokens are
generated in turns. llama.cpp reads 32,000 tokens in about ten minutes: reading is timed once unless
more rounds are asked for; the row says how many.

Results go to benchmarks/results/far_peer.*; `benchmarks/long_context.py` takes them in.
"""

import argparse
import sys

from deepseek.core.threads import thread_count
from deepseek.weights.pull import ensure
from llama_flags import VARIANTS, llama_name
from peers import Worker
from report import paired_row, write_results

MODEL = "smollm2-135m"
ROOM = 1_024
"""Positions behind the text."""
STEPS = 32
PREFILL, DECODE = (3.0, 8.0), (2.0, 4.0)
"""How many times as fast reading and generating must be, and what would be more."""
Rates = list[tuple[float, float]]
"""Of both, taking turns."""


def main() -> None:
    """Time both and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefill-rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=thread_count()[0])
    args = parser.parse_args()
    path, flags, window = ensure(MODEL).path, VARIANTS[1], args.length + ROOM
    ours = Worker("ours", path, args.threads, dtype="int8", context_window=window)
    theirs = Worker("llama.cpp", path, args.threads, n_ctx=window, **flags)
    peer = llama_name("Q4_1", flags)

    def in_turns(n_rounds: int, job: str, *numbers: int) -> Rates:
        found = []
        for _ in range(n_rounds):
            found.append((ours.rate(job, *numbers), theirs.rate(job, *numbers)))
            print(job, *numbers, *(f"{rate:.1f}" for rate in found[-1]), flush=True)
        return found

    in_turns(1, "decode", 4, 128)  # warm
    reading = in_turns(args.prefill_rounds, "prefill", args.length)
    in_turns(1, "decode", 4, args.length)  # what else must be read first is
    generating = in_turns(args.rounds, "decode", STEPS, args.length)
    rows = [
        paired_row(name, "tokens/s", peer, rates, [a / b for a, b in rates], musts)
        for name, rates, musts in (
            (f"reading {args.length:,} tokens", reading, PREFILL),
            (f"generating after {args.length:,} tokens", generating, DECODE),
        )
    ]
    write_results("far_peer", rows, sys.argv)


if __name__ == "__main__":
    main()
