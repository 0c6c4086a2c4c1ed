"""Does semantic entropy tell wrong answers, better than length, log-probability and p(True)?

    python benchmarks/semantic_entropy.py [--models qwen2.5-coder-1.5b,…] [--count 15]

Questions are fresh problems of our own templates and of reasoning-gym's easy levels, as many of
each family. For each a greedy answer, whose fate is foretold, and ten samples at temperature 1.
AUROC for a wrong greedy answer, with 95 % bootstrap intervals over questions; then the same with
the first k samples only, and with as many as adaptive stopping draws: its samples are the first of
the ten. Differences to the baselines are paired. Answers are kept in --work, so that a
run goes on where it stopped. Writes benchmarks/results/semantic_entropy.json, .md.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np

from deepseek.data.entropy.attempts import Attempt, attempt
from deepseek.data.entropy.auroc import compare_aurocs, replicates
from deepseek.data.entropy.estimate import discrete_entropy, uncertainty
from deepseek.data.entropy.journal import AttemptJournal
from deepseek.data.entropy.sampling import Sampling
from deepseek.data.entropy.signals import SIGNS
from deepseek.data.synthesis.families import make_problem
from deepseek.engine.loader import load_engine
from report import Row, say, say_row, write_results

FAMILIES = (
    ("gym/chain_sum", 0),
    ("gym/gcd", 0),
    ("gym/letter_counting", 0),
    ("gym/basic_arithmetic", 0),
    ("gym/simple_equations", 0),
    ("gym/spell_backward", 0),
    ("words/ages", 0),
    ("words/story", 0),
)
SEED = 12
MOST = 10
"""Samples of each question."""
SAMPLING = Sampling(samples=MOST, first=MOST, max_tokens=12)
ADAPTIVE = Sampling(samples=MOST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="qwen2.5-coder-1.5b")
    parser.add_argument("--count", type=int, default=15, help="questions of each family")
    parser.add_argument("--work", type=Path, default=Path("out/semantic_entropy"))
    args = parser.parse_args()
    rows: list[Row] = []
    for name in args.models.split(","):
        rows += measured(name, answers(name, args.count, args.work))
    write_results("semantic_entropy", rows, sys.argv)


def answers(name: str, count: int, folder: Path) -> list[Attempt]:
    """The model's answers to all questions; those of an earlier start are taken as they are."""
    about = {"model": name, "count": count, "seed": SEED, "families": [list(f) for f in FAMILIES]}
    journal = AttemptJournal(folder / f"{name}.jsonl", about)
    missing = [(f, n) for f, n in FAMILIES if (f, n, 0) not in journal.portions]
    if missing:
        engine, _ = load_engine(name)
        for family, level in missing:
            problems = [make_problem(family, level, SEED, i) for i in range(count)]
            found = attempt(engine, problems, SAMPLING, "direct", p_true=True)
            journal.add((family, level, 0), found)
            right = mean(one.greedy.is_right for one in found)
            say(f"{name}, {family} at level {level}: {right:.0%} right")
        engine.close()
    journal.close()
    return [one for family, level in FAMILIES for one in journal.portions[(family, level, 0)]]


def measured(name: str, attempts: Sequence[Attempt]) -> list[Row]:
    """AUROCs of one model."""
    wrong = [not one.greedy.is_right for one in attempts]
    right = Row(f"{name}: greedy answers right", 100 * (1 - mean(wrong)), "%", rounds=len(wrong))
    risks = {
        signal: [sign * float(one.signals[signal]) for one in attempts]
        for signal, sign in SIGNS.items()
    }
    rows = [right, *auroc_rows(name, risks, wrong)]
    for baseline in ("length", "mean_logprob", "p_true"):
        rows.append(difference(name, baseline, risks["entropy"], risks[baseline], wrong))
    by_k = {f"entropy of {k} samples": [entropy_of(one, k) for one in attempts] for k in (2, 3, 5)}
    counts = [enough(one) for one in attempts]
    by_k["entropy, adaptive"] = [
        entropy_of(one, k) for one, k in zip(attempts, counts, strict=True)
    ]
    rows += auroc_rows(name, by_k, wrong)
    saved = Row(
        f"{name}: samples drawn with adaptive stopping",
        mean(counts),
        "a question",
        peer="fixed",
        peer_value=float(MOST),
        rounds=len(counts),
        low=float(min(counts)),
        high=float(max(counts)),
    )
    adaptive = by_k["entropy, adaptive"]
    rows += [saved, difference(name, f"{MOST} samples", adaptive, risks["entropy"], wrong)]
    rows[-1] = replace(rows[-1], name=f"{name}: AUROC of adaptive minus of {MOST} samples")
    for row in rows:
        say_row(row)
    return rows


def auroc_rows(name: str, risks: dict[str, list[float]], wrong: Sequence[bool]) -> list[Row]:
    """One row a signal."""
    return [
        Row(
            f"{name}: AUROC of {signal.replace('_', ' ')}",
            found.value,
            "",
            rounds=len(wrong),
            low=found.low,
            high=found.high,
        )
        for signal, found in compare_aurocs(dict(risks), wrong).items()
    ]


def difference(
    name: str, other: str, ours: list[float], theirs: list[float], wrong: Sequence[bool]
) -> Row:
    """How much more entropy tells than another signal, on the same resampled questions."""
    mask = np.asarray(wrong)
    pair = {"a": ours, "b": theirs}
    values = compare_aurocs(dict(pair), wrong)
    drawn = replicates(np.asarray(ours), mask) - replicates(np.asarray(theirs), mask)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Row(
        f"{name}: AUROC of entropy minus of {other.replace('_', ' ')}",
        values["a"].value - values["b"].value,
        "",
        rounds=len(wrong),
        low=float(low),
        high=float(high),
    )


def entropy_of(one: Attempt, k: int) -> float:
    """Of the first k samples."""
    return discrete_entropy([sample.cluster for sample in one.samples[:k]])


def enough(one: Attempt) -> int:
    """How many samples adaptive stopping draws: they are the first of all."""
    k = ADAPTIVE.first
    clusters = [sample.cluster for sample in one.samples]
    while k < MOST and uncertainty(clusters[:k]) > ADAPTIVE.tolerance:
        k = min(MOST, k + ADAPTIVE.step)
    return k


if __name__ == "__main__":
    main()
