"""What is learned from hard cases: `deepseek data synthesize`, `deepseek tune`, and a look.

    python benchmarks/hard_cases.py [--seeds 3] [--threads 2] [--count 80]

SmolLM2-135M answers fresh problems of families that it solves at times; verifiers judge, and what
it gets confidently wrong or is unsure of is learned with verified answers (LoRA, rank 16). Judged
are greedy answers to hard cases that were held out by a digest of the question, before and after;
whole families are held out to see what is transferred. Beside them stand all held-out problems,
hard or not: hard cases were chosen for being answered wrongly, so that some of them would be
answered rightly by any other model. The rate is the best of some on a part that is not judged, with
a seed for this only.

Intervals are of the paired bootstrap over problems, of which each counts as the mean of its seeds.
All that is done is kept in out/: a run that was stopped goes on. Rows end in
benchmarks/results/training.json.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from deepseek.core.llm import Message, Prompt, SamplingParams
from deepseek.data.synthesis.families import make_problem
from deepseek.data.verifiers.registry import find_verifier
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.eval.statistics import Measurements, paired_bootstrap
from report import ROOT, Row, keep_rows, kept, say, say_row
from tuned import Arm, digest

BASE = "smollm2-135m"
WORK = ROOT / "out" / "hard_cases"
FAMILIES = ("gym/chain_sum", "gym/products", "words/ages")
OTHERS = ("gym/basic_arithmetic",)
"""Held out as a whole."""
LEVELS = (0, 1)
LONGEST = 20
"""Tokens of an answer."""
RATES = (5e-4, 2e-3)
RATE_SEED = 100
RATE_PART = 0.1
"""Of the held-out problems: the rate is chosen by them, and they are not judged."""
MORE_POINTS = 10.0
Held = dict[str, Any]
"""A line of held_out.jsonl."""


def main() -> None:
    """Do what is missing, and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: all granted")
    parser.add_argument("--count", type=int, default=80, help="problems of a family and level")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--rate", type=float, help="instead of the best of some")
    parser.add_argument("--collect", action="store_true", help="rows of what is tuned already")
    parser.add_argument("--quick", action="store_true", help="few problems and steps, no file")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.count, args.epochs, args.rate = 1, 12, 1.0, 1e-3
    folder = synthesize(args)
    held = [json.loads(line) for line in (folder / "held_out.jsonl").read_text().splitlines()]
    data = folder / "hard.jsonl"
    engine, _ = load_engine(BASE, threads=args.threads)
    judged, rates = split(held)
    before = verdicts(engine, judged, None)
    rate = args.rate or best_rate(engine, data, rates, args)
    arms = [arm_of(data, rate, seed, args) for seed in range(args.seeds)]
    arms = [arm for arm in arms if arm.is_tuned or not args.collect]
    after = [verdicts(engine, judged, arm, args.threads) for arm in arms]
    # Token by token a text may be read as one token less than it was written.
    whole = [engine.count_tokens(text) < LONGEST - 1 for text in answers_of(engine, judged, None)]
    rows = rows_of(judged, before, after, whole)
    for row in rows:
        say_row(row)
    if not args.quick:
        keep_rows("training", "hard_cases", rows)


def synthesize(args: argparse.Namespace) -> Path:
    """The folder with hard cases and held-out problems; a run that was stopped goes on."""
    settings = {
        "problems.style": "direct",
        "problems.held_out_families": list(OTHERS),
        "problems.held_out": 0.5,
        "sampling.samples": 4,
        "selection.unsolved": True,
        "sampling.max_tokens": LONGEST,
        "run.portion": 64,
    }
    options = ["--tasks", ",".join(FAMILIES), "--levels", ",".join(map(str, LEVELS))]
    options += ["--count", str(args.count), "--model", BASE]
    for key, value in settings.items():
        options += ["--set", f"{key}={json.dumps(value)}"]
    out = WORK / sha256(json.dumps(options).encode()).hexdigest()[:16]
    if not (out / "report.html").exists():  # written last
        command = [sys.executable, "-m", "deepseek", "data", "synthesize", *options]
        command += ["--out", str(out)]
        if args.threads is not None:
            command += ["--threads", str(args.threads)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def split(held: Sequence[Held]) -> tuple[list[Held], list[Held]]:
    """What is judged, and what the rate is chosen by, by a digest of the question."""
    judged, rates = list[Held](), list[Held]()
    for row in held:
        part = int(digest([row["question"]])[:8], 16) / 16**8
        is_judged = part >= RATE_PART or family_of(row) in OTHERS
        (judged if is_judged else rates).append(row)
    return judged, rates


def best_rate(engine: Engine, file: Path, rates: Sequence[Held], args: argparse.Namespace) -> float:
    """The one with most right answers, hard cases or not."""
    found = {}
    for rate in RATES:
        arm = arm_of(file, rate, RATE_SEED, args)
        right = verdicts(engine, rates, arm, args.threads)
        found[rate] = sum(right) / len(right)
        say(f"rate {rate:g}: {found[rate]:.1%} of {len(right)} right")
    return max(found, key=lambda rate: found[rate])


def arm_of(file: Path, rate: float, seed: int, args: argparse.Namespace) -> Arm:
    """A run of `deepseek tune` on these records."""
    return Arm(name="hard cases", base=BASE, data=file, rate=rate, epochs=args.epochs, seed=seed)


def verdicts(
    engine: Engine, held: Sequence[Held], arm: Arm | None, threads: int | None = None
) -> list[bool]:
    """Whether each greedy answer is right, of the base or of an arm."""
    answers = answers_of(engine, held, arm, threads)
    return [is_right(row, answer) for row, answer in zip(held, answers, strict=True)]


def answers_of(
    engine: Engine, held: Sequence[Held], arm: Arm | None, threads: int | None = None
) -> list[str]:
    """Greedy answers, those that are kept or new ones."""
    folder = WORK if arm is None else arm.folder
    file = folder / "answers" / f"{digest([row['question'] for row in held])}.json"
    found: list[str] = kept(file, lambda: greedy_answers(engine, held, arm, threads))
    return found


def greedy_answers(
    engine: Engine, held: Sequence[Held], arm: Arm | None, threads: int | None
) -> list[str]:
    """What is said to each question; an arm is tuned if it is not yet."""
    name = None
    if arm is not None:
        name = arm.folder.name
        if name not in [adapter.name for adapter in engine.adapters]:
            engine.load_adapter(name, arm.tune(threads))
    prompts: list[Prompt] = [[Message("user", row["question"])] for row in held]
    params = [SamplingParams(max_tokens=LONGEST)] * len(held)
    answers = dict(engine.generate_many(prompts, params, adapter=name))
    return [answers[n].text for n in range(len(held))]


def is_right(row: Held, answer: str) -> bool:
    """What the problem's verifier says."""
    about = row["provenance"]
    problem = make_problem(about["family"], about["level"], about["seed"], about["index"])
    return find_verifier(row["verifier"]).is_right(problem, answer)


def family_of(row: Held) -> str:
    """Of a held-out problem."""
    family: str = row["provenance"]["family"]
    return family


def rows_of(
    judged: Sequence[Held], before: list[bool], after: list[list[bool]], whole: Sequence[bool]
) -> list[Row]:
    """Accuracies and gains on hard cases and on all problems, of these families and of others, and
    on those to which the base's answer was not cut off: there the gain is none of the form.
    """
    parts: dict[str, Callable[[Held], bool]] = {
        "hard cases held out": lambda row: family_of(row) in FAMILIES and is_hard(row),
        "hard cases of other families": lambda row: family_of(row) in OTHERS and is_hard(row),
        "all problems held out": lambda row: family_of(row) in FAMILIES,
        "all problems of other families": lambda row: family_of(row) in OTHERS,
    }
    parts |= {
        f"hard cases held out, {family}": lambda row, f=family: family_of(row) == f and is_hard(row)
        for family in FAMILIES
    }
    chosen = {
        title: [n for n, row in enumerate(judged) if fits(row)] for title, fits in parts.items()
    }
    for title in list(parts)[:2]:
        uncut = [n for n in chosen[title] if whole[n]]
        chosen[f"{title}, answered to the end before"] = uncut
    rows, shown = list[Row](), list[list[int]]()
    for title, places in chosen.items():
        if places and places not in shown:  # all may be hard
            shown.append(places)
            base = np.array([before[n] for n in places], dtype=np.float64)
            each = np.array([[seed[n] for n in places] for seed in after], dtype=np.float64)
            rows += gain_rows(title, base, each)
    rows[1].must = MORE_POINTS
    return rows


def is_hard(row: Held) -> bool:
    """Whether the base does not solve it."""
    return bool(row["kind"] != "solved")


def gain_rows(name: str, before: Any, after: Any) -> list[Row]:
    """Accuracy before and after, and how many points more that is."""
    ones, groups = np.ones(before.size), np.zeros(before.size, dtype=np.int64)
    sides = [Measurements(values=v, weights=ones, groups=groups) for v in (before, after.mean(0))]
    gain = paired_bootstrap(*sides)
    share, was = 100 * after.mean(), 100 * before.mean()
    seeds = 100 * after.mean(axis=1)
    right = Row(
        f"{name}: greedy answers right (of {before.size}; range of the seeds)", share, "%",
        "before", was, None, len(after), float(seeds.min()), float(seeds.max()),
    )  # fmt: skip
    more = Row(
        f"{name}: gain", 100 * gain.value, "points", rounds=len(after),
        low=100 * gain.low, high=100 * gain.high,
    )  # fmt: skip
    return [right, more]


if __name__ == "__main__":
    main()
