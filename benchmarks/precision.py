"""What number formats do to training: the loss in FP8 beside bfloat16, and the speed of bfloat16.

    python benchmarks/precision.py [--parts loss throughput] [--steps 600] [--rounds 5]

`loss`: a model of the size of r1-tiny learns texts of this repository three times from the same
weights and the same windows: in float32, in bfloat16, and in bfloat16 with products in FP8 (E4M3,
emulated). Losses are compared by the mean of the last hundred steps and by means of fifty.
`throughput`: steps of smollm2-135m's shape in bfloat16 and in float32 by turns.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median

from deepseek.train.config import load_training_config
from deepseek.train.loop import Trainer, deterministic
from deepseek.train.run import prepare_run
from report import ROOT, Row, paired_row, say, say_row, write_results

PARTS = ("loss", "throughput")
FORMATS = {
    "float32": ("float32", "plain"),
    "bfloat16": ("bfloat16", "plain"),
    "fp8": ("bfloat16", "fp8"),
}
MUST_ERROR, MUST_SPEED = 0.25, 1.8
WINDOW, TAIL = 50, 100
"""Steps of a mean along the way, and at the end."""
CONFIG = """
[run]
window = {window}
batch = {batch}
micro = {batch}
dtype = "{dtype}"
precision = "{precision}"
[model]
preset = "{root}/configs/{preset}.toml"
[tokenizer]
vocab_size = 4096
[sources.texts]
paths = ["{root}/docs", "{root}/README.md", "{root}/native", "{root}/src"]
[optimiser]
rate = 2e-3
[[stages]]
name = "only"
tokens = {tokens}
weights = {{ texts = 1 }}
[evaluation]
every = 100_000
held_out = 0.05
[checkpoint]
every = 100_000
"""


def trainer_of(
    folder: Path, kind: str, preset: str, *, steps: int, window: int, batch: int
) -> Trainer:
    """A run that begins, in a number format."""
    dtype, precision = FORMATS[kind]
    file = folder / f"{preset}-{kind}.toml"
    text = CONFIG.format(
        **{"root": ROOT, "preset": preset, "dtype": dtype, "precision": precision},
        **{"window": window, "batch": batch, "tokens": steps * window * batch},
    )
    file.write_text(text)
    return prepare_run(load_training_config(file), folder / f"{preset}-{kind}").trainer


def loss_rows(folder: Path, steps: int) -> Iterator[Row]:
    """Losses of three formats, step by step the same windows."""
    found: dict[str, list[float]] = {}
    bits: dict[str, float] = {}
    for kind in FORMATS:
        trainer = trainer_of(folder, kind, "r1-tiny", steps=steps, window=256, batch=4)
        losses = found.setdefault(kind, [])
        start = time.perf_counter()
        trainer.run(lambda row, losses=losses: losses.append(row["loss"]))
        bits[kind] = trainer.evaluate()["texts"]
        seconds = time.perf_counter() - start
        say(f"{kind}: {steps} steps in {seconds:.0f} s, loss {fmean(losses[-TAIL:]):.4f}")
    for kind, peer in (("fp8", "bfloat16"), ("bfloat16", "float32")):
        must = MUST_ERROR if kind == "fp8" else None
        ours, theirs = found[kind], found[peer]
        last = fmean(ours[-TAIL:]), fmean(theirs[-TAIL:])
        along = [
            relative(fmean(ours[n : n + WINDOW]), fmean(theirs[n : n + WINDOW]))
            for n in range(0, steps - WINDOW + 1, WINDOW)
        ]
        title = f"{kind} beside {peer}, r1-tiny, {steps} steps"
        yield Row(
            f"loss of the last {TAIL} steps, {title}: difference",
            relative(*last),
            "%",
            rounds=1,
            must=must,
            better="lower",
        )
        yield Row(
            f"means of {WINDOW} steps, {title}: largest difference",
            max(along),
            "%",
            rounds=1,
            better="lower",
        )
        yield Row(
            f"bits per byte of held-out texts, {title}",
            bits[kind],
            "bits",
            peer=peer,
            peer_value=bits[peer],
            better="lower",
        )


def relative(ours: float, theirs: float) -> float:
    """How far one number is from another, in percent of that."""
    return 100 * abs(ours - theirs) / theirs


def throughput_rows(folder: Path, rounds: int) -> Iterator[Row]:
    """Steps by turns, in the same process."""
    for preset, window, batch in (("smollm2-135m", 512, 2), ("r1-tiny", 512, 8)):
        trainers = {
            kind: trainer_of(folder, kind, preset, steps=1_000, window=window, batch=batch)
            for kind in ("bfloat16", "float32")
        }
        pairs = []
        for number in range(rounds + 1):
            speeds = [steps_per_second(trainer) * window * batch for trainer in trainers.values()]
            if number:  # the first round warms up
                pairs.append((speeds[0], speeds[1]))
        yield paired_row(
            f"training in bfloat16, {preset}'s shape, {batch} windows of {window}",
            "tokens/s",
            "float32",
            pairs,
            [ours / theirs for ours, theirs in pairs],
            (MUST_SPEED if preset == "smollm2-135m" else None, None),
        )


def steps_per_second(trainer: Trainer, steps: int = 2) -> float:
    """Of whole steps of the optimiser."""
    trainer.model.train()
    with deterministic():
        seconds = median(trainer._take_step()["seconds"] for _ in range(steps))
    return 1 / seconds


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder of the results; without: the repository's")
    args = parser.parse_args(arguments[1:])
    if args.steps < TAIL:
        parser.error(f"--steps is {args.steps}, and losses are means of up to {TAIL}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for part in args.parts:
            found = (
                loss_rows(Path(name), args.steps)
                if part == "loss"
                else throughput_rows(Path(name), args.rounds)
            )
            for row in found:
                say_row(row)
                rows.append(row)
    more = {} if args.out is None else {"folder": args.out}
    write_results("precision", rows, arguments, **more)


if __name__ == "__main__":
    main(sys.argv)
