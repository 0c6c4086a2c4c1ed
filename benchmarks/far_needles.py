"""Needles in texts far longer than the weights were trained for, beside dense attention within it.

    python benchmarks/far_needles.py [--lengths 32000 128000] [--keys 8] [--contexts 2]

RULER's niah_multikey: keys with numbers hidden in an essay, each asked for in turn about a text
that is read once. The peer is dense attention on as many keys in texts of the trained length: it
cannot read longer ones. Answers are kept in out/far_needles, and go to results/far_needles.*.
"""

import argparse
import sys

from deepseek.engine.loader import load_engine
from deepseek.eval.journal import Journal
from deepseek.eval.record import Record
from deepseek.eval.ruler.needles import Needles
from long_accuracy import answer_all, run_of
from long_items import needles
from long_scores import DENSE, mean_of
from report import ROOT, Row, write_results

KEPT = ROOT / "out" / "far_needles"
TRAINED = 8_000
"""Tokens of the dense texts; a little less than the models' trained length."""
WANTED = {128_000: (0.9, None), 256_000: (None, 0.98)}
"""Of the dense share: what must be found, and what would be more."""


def ask_all(model: str, length: int, args: argparse.Namespace) -> list[Record]:
    """All questions about all texts of one length, from the journal or asked now."""
    engine, report = load_engine(model, context_window=length + 200 if length > TRAINED else None)
    name = f"{model}-{length}"
    with Journal(KEPT / f"{name}.jsonl", run_of(engine, report.weights, name)) as journal:
        records = []
        for index in range(args.contexts):
            kinds = Needles(haystack=args.haystack, n_keys=args.keys)
            context = needles(kinds, length, args.keys, engine, index)
            records += answer_all(engine, context, journal, f"{args.haystack} {args.keys}/{index}")
            print(f"{length:,}: {_shares(records)}", flush=True)
    return records


def _shares(records: list[Record]) -> str:
    written, chosen = (mean_of(records, name) for name in ("written", "chosen"))
    return f"{written:.0%} written, {chosen:.0%} chosen of {len(records)}"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32_000, 128_000])
    parser.add_argument("--keys", type=int, default=8)
    parser.add_argument("--haystack", default="essay", choices=("essay", "noise"))
    parser.add_argument("--contexts", type=int, default=2)
    args = parser.parse_args()
    near = ask_all(args.model, TRAINED, args)
    rows = []
    for length in args.lengths:
        far = ask_all(args.model, length, args)
        for answer in ("written", "chosen"):
            must, moonshot = (
                WANTED.get(length, (None, None)) if answer == "written" else (None,) * 2
            )
            rows.append(
                Row(
                    f"{args.keys} needles ({args.haystack}) in {length:,} tokens, {answer} "
                    f"({args.model})",
                    100 * mean_of(far, answer),
                    "%",
                    f"{DENSE}, {TRAINED:,} tokens",
                    100 * mean_of(near, answer),
                    rounds=len(far),
                    must=must,
                    moonshot=moonshot,
                    judge="ratio",
                )
            )
    write_results("far_needles", rows, sys.argv)


if __name__ == "__main__":
    main()
