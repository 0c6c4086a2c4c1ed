"""What tuning on a narrow domain makes a model forget, and what general data beside it keep.

    python benchmarks/forgetting.py [--seeds 3] [--threads 2] [--records 128] [--items 60]

SmolLM2-135M learns to answer word problems by bare equations, line by line, with the number at the
end (LoRA, rank 16): narrow, terse, and unlike all it says otherwise. Three arms see the same
problems as often: alone, with real questions and answers beside them (benchmarks/conversations.py),
with answers that the base gave itself before (`--general self`); domain to general 3 : 1.
Forgetting is the rise of bits per byte on what no arm is trained on: the right answers of ARC,
HellaSwag and MMLU, which serve for measuring only; beside them held-out real answers, and the
base's own answers to their questions. The rate is the one that learns the domain best under a seed
and on problems that are not judged.

Intervals are of the paired bootstrap over items, of which each counts as the mean of its seeds.
Runs and measures are kept in out/tuned: a run that was stopped goes on. Rows end in
benchmarks/results/training.json, the picture in benchmarks/results/forgetting.svg.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from conversations import conversations
from deepseek.core.llm import Message, Prompt, SamplingParams, ScoreRequest
from deepseek.data.synthesis.families import make_problem
from deepseek.data.synthesis.records import reference_of
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.eval.statistics import replicates
from deepseek.eval.task import Choice, Setup, sample_items
from deepseek.eval.tasks.table import find_task
from forgetting_chart import draw_forgetting
from report import RESULTS, ROOT, Row, keep_rows, kept, say, say_row
from tuned import SELF, Arm, digest

BASE = "smollm2-135m"
WORK = ROOT / "out" / "forgetting"
FAMILIES = ("words/ages", "words/story", "words/purchase")
TASKS = ("arc", "hellaswag", "mmlu_cloze")
ARMS: dict[str, str | None] = {
    "no general data": None,
    "real conversations": "real",
    "own answers": SELF,
}
ALONE = next(iter(ARMS))
RATES = (7e-4, 2e-3)
RATE_SEED = 100
KEPT_SHARE, GIVEN_UP = (50.0, 80.0), 1.0
"""Of forgetting that must be removed and that would be more, in %; of the domain's bits, in %."""
Texts = list[tuple[Prompt, str, int]]
"""What is read, what is scored behind it, and the number of its group."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Bits per byte of some texts, item by item."""

    bits: Float64[np.ndarray, " n"]
    sizes: Float64[np.ndarray, " n"]
    groups: Any

    def mean(self) -> float:
        """Of all groups, each counting the same."""
        return float(_means(self.bits[:, None], self.sizes, self.groups)[0])


def main() -> None:
    """Tune and measure what is missing, and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: all granted")
    parser.add_argument("--records", type=int, default=128, help="problems to learn from")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--items", type=int, default=60, help="of each set that is measured")
    parser.add_argument("--rate", type=float, help="instead of the best of some")
    parser.add_argument("--collect", action="store_true", help="rows of what is tuned already")
    parser.add_argument("--quick", action="store_true", help="a few steps and items, no file")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.records, args.epochs, args.items, args.rate = 1, 12, 1.0, 6, 1e-3
    files = write_data(args)
    engine, _ = load_engine(BASE, threads=args.threads)
    sets = texts_of(engine, files, args)
    rate = args.rate or best_rate(engine, files, sets["rates"], args)
    del sets["rates"]
    before = {name: measure(engine, texts, None) for name, texts in sets.items()}
    after: dict[str, list[Mapping[str, Measure]]] = {name: [] for name in ARMS}
    for seed in range(args.seeds):
        for name in ARMS:
            arm = arm_of(name, files, rate, seed, args)
            if args.collect and not arm.is_tuned:
                continue
            after[name].append({k: measure(engine, t, arm, args.threads) for k, t in sets.items()})
    say_seeds(before, after)
    rows = rows_of(before, after)
    for row in rows:
        say_row(row)
    if not args.quick:
        keep_rows("training", "forgetting", rows)
        draw_forgetting(rows, RESULTS / "forgetting.svg")


def write_data(args: argparse.Namespace) -> dict[str, Path]:
    """The domain's records and the general ones, those to learn from and those to measure by."""
    n, talks = args.items, conversations()
    domain = [worked(n_done) for n_done in range(2 * n + args.records)]
    parts = {
        "domain-test": domain[:n],
        "domain-rates": domain[n : 2 * n],
        "domain": domain[2 * n : 2 * n + args.records],
        "real-test": talks[:n],
        "real": talks[n:],
    }
    files = {}
    for name, rows in parts.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        files[name] = WORK / f"{name}-{digest(rows)}.jsonl"
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_text(text, encoding="utf-8")
    return files


def worked(index: int) -> dict[str, str]:
    """A word problem and its steps, one of each family in turn."""
    place, number = divmod(index, len(FAMILIES))
    problem = make_problem(FAMILIES[number], 0, 0, place)
    return {"prompt": problem.question, "completion": reference_of(problem, worked=True)}


def texts_of(
    engine: Engine, files: Mapping[str, Path], args: argparse.Namespace
) -> dict[str, Texts]:
    """What is measured: by name."""
    questions = [row["prompt"] for row in _rows(files["real-test"])]
    key = digest([questions, BASE])
    own = kept(WORK / f"own-{key}.json", lambda: own_answers(engine, questions))
    return {
        "gold": list(gold_answers(args.items)),
        "conversations": _asked(files["real-test"]),
        "own": [([Message("user", q)], a, 0) for q, a in zip(questions, own, strict=True) if a],
        "domain": _asked(files["domain-test"]),
        "rates": _asked(files["domain-rates"]),
    }


def gold_answers(most: int) -> Iterator[tuple[Prompt, str, int]]:
    """Questions of public evaluation sets with the right answers, never learned from."""
    for number, name in enumerate(TASKS):
        items = list(find_task(name).items(Setup(shots=0)))
        for item in sample_items(items, most, 0):
            assert isinstance(item, Choice)
            yield item.prompt, item.choices[item.gold], number


def own_answers(engine: Engine, questions: Sequence[str]) -> list[str]:
    """What the base says to questions, drawn at temperature 1."""
    prompts: list[Prompt] = [[Message("user", question)] for question in questions]
    params = [
        SamplingParams(max_tokens=48, temperature=1.0, seed=1_000 + n)
        for n in range(len(questions))
    ]
    answers = dict(engine.generate_many(prompts, params))
    return [answers[n].text for n in range(len(questions))]


def best_rate(
    engine: Engine, files: Mapping[str, Path], texts: Texts, args: argparse.Namespace
) -> float:
    """The one that learns the domain best alone, on functions and with a seed for this only."""
    found = {}
    for rate in RATES:
        arm = arm_of(ALONE, files, rate, RATE_SEED, args)
        found[rate] = measure(engine, texts, arm, args.threads).mean()
        say(f"rate {rate:g}: {found[rate]:.4f} bits per byte of the domain")
    return min(found, key=lambda rate: found[rate])


def arm_of(
    name: str, files: Mapping[str, Path], rate: float, seed: int, args: argparse.Namespace
) -> Arm:
    general = ARMS[name]
    if general is not None and general != SELF:
        general = files[general]
    return Arm(
        name=name,
        base=BASE,
        data=files["domain"],
        rate=rate,
        epochs=args.epochs,
        seed=seed,
        batch=4,
        general=general,
    )


def measure(engine: Engine, texts: Texts, arm: Arm | None, threads: int | None = None) -> Measure:
    """Bits per byte of texts under the base, or under an arm that is tuned if it is not yet."""
    key = digest([[str(prompt), text] for prompt, text, _ in texts])
    folder = WORK if arm is None else arm.folder
    nats = kept(folder / "nats" / f"{key}.json", lambda: _nats(engine, texts, arm, threads))
    sizes = np.array([len(text.encode()) for _, text, _ in texts], dtype=np.float64)
    groups = np.array([group for _, _, group in texts], dtype=np.int64)
    return Measure(np.array(nats) / math.log(2) / sizes, sizes, groups)


def _nats(engine: Engine, texts: Texts, arm: Arm | None, threads: int | None) -> list[float]:
    name = None
    if arm is not None:
        name = arm.folder.name
        if name not in [adapter.name for adapter in engine.adapters]:
            engine.load_adapter(name, arm.tune(threads))
    requests = [ScoreRequest(prompt, (text,)) for prompt, text, _ in texts]
    found = [-score.logprob for (score,) in engine.score_many(requests, adapter=name)]
    return found


def say_seeds(
    before: Mapping[str, Measure], after: Mapping[str, list[Mapping[str, Measure]]]
) -> None:
    """How far each seed's means are apart from the base's."""
    for name, seeds in after.items():
        for number, found in enumerate(seeds):
            apart = {what: f"{m.mean() - before[what].mean():+.4f}" for what, m in found.items()}
            say(f"{name}, seed {number}: {apart}")


def rows_of(
    before: Mapping[str, Measure], after: Mapping[str, list[Mapping[str, Measure]]]
) -> list[Row]:
    """Rises of bits per byte, the share of the rise that is removed, and what the domain lost."""
    rows, general = list[Row](), [name for name in ARMS if name != ALONE and after[name]]
    for what, title in (
        ("gold", "right answers of ARC, HellaSwag, MMLU"),
        ("conversations", "held-out conversations"),
        ("own", "the base's own answers"),
    ):
        rows.append(Row(f"before tuning: {title}", before[what].mean(), "bits/byte"))
        for name in (ALONE, *general):
            rows.append(_rise_row(f"forgetting, {name}: {title}", before, after, what, name))
        for name in general:
            row = _removed_row(f"forgetting removed by {name}: {title}", before, after, what, name)
            if what == "gold":
                row.must, row.moonshot = KEPT_SHARE
            rows.append(row)
    for name in (ALONE, *general):
        rows.append(_learned_row(before, after, name))
    for name in general:
        rows += [_given_up_row(after, name), _less_learned_row(before, after, name)]
    return rows


def _seeds(after: Sequence[Mapping[str, Measure]], what: str) -> Measure:
    """The mean of the seeds, item by item."""
    found = [seed[what] for seed in after]
    return Measure(np.mean([m.bits for m in found], axis=0), found[0].sizes, found[0].groups)


def _drawn(*measures: Measure) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, "b k"]]:
    """Means of some measures of the same items, and those of the same items drawn again."""
    bits = np.stack([m.bits for m in measures], axis=1)
    sizes, groups = measures[0].sizes, measures[0].groups
    weights = np.repeat(sizes[:, None], len(measures), axis=1)
    return _means(bits, sizes, groups), replicates(bits, weights, groups)


def _means(
    bits: Float64[np.ndarray, "n k"], sizes: Float64[np.ndarray, " n"], groups: Any
) -> Float64[np.ndarray, " k"]:
    parts = [
        np.average(bits[groups == group], axis=0, weights=sizes[groups == group])
        for group in np.unique(groups)
    ]
    return np.mean(parts, axis=0)


def _row(name: str, unit: str, value: float, drawn: Any, n_seeds: int, better: Any) -> Row:
    low, high = (float(bound) for bound in np.quantile(drawn, (0.025, 0.975)))
    return Row(name, value, unit, rounds=n_seeds, low=low, high=high, better=better)


def _rise_row(name: str, before: Any, after: Any, what: str, arm: str) -> Row:
    means, drawn = _drawn(before[what], _seeds(after[arm], what))
    rises = drawn[:, 1] - drawn[:, 0]
    return _row(name, "bits/byte", means[1] - means[0], rises, len(after[arm]), "lower")


def _removed_row(name: str, before: Any, after: Any, what: str, arm: str) -> Row:
    means, drawn = _drawn(before[what], _seeds(after[ALONE], what), _seeds(after[arm], what))
    rises, left = drawn[:, 1] - drawn[:, 0], drawn[:, 2] - drawn[:, 0]
    value = 100 * (1 - (means[2] - means[0]) / (means[1] - means[0]))
    return _row(name, "%", value, 100 * (1 - left / rises), len(after[arm]), "higher")


def _learned_row(before: Any, after: Any, arm: str) -> Row:
    means, drawn = _drawn(before["domain"], _seeds(after[arm], "domain"))
    low, high = (float(bound) for bound in np.quantile(drawn[:, 1], (0.025, 0.975)))
    return Row(
        f"domain, {arm}: held-out problems", float(means[1]), "bits/byte", "the base's",
        float(means[0]), rounds=len(after[arm]), low=low, high=high, better="lower",
    )  # fmt: skip


def _given_up_row(after: Any, arm: str) -> Row:
    means, drawn = _drawn(_seeds(after[ALONE], "domain"), _seeds(after[arm], "domain"))
    name = f"domain given up for {arm}: bits per byte more than with {ALONE}"
    row = _row(
        name, "%", 100 * (means[1] / means[0] - 1), 100 * (drawn[:, 1] / drawn[:, 0] - 1),
        len(after[arm]), "lower",
    )  # fmt: skip
    row.must = GIVEN_UP
    return row


def _less_learned_row(before: Any, after: Any, arm: str) -> Row:
    means, drawn = _drawn(
        before["domain"], _seeds(after[ALONE], "domain"), _seeds(after[arm], "domain")
    )
    value = 100 * (means[2] - means[1]) / (means[0] - means[1])
    spread = 100 * (drawn[:, 2] - drawn[:, 1]) / (drawn[:, 0] - drawn[:, 1])
    name = f"domain given up for {arm}: of the bits per byte that were learned with {ALONE}"
    return _row(name, "%", value, spread, len(after[arm]), "lower")


def _asked(file: Path) -> Texts:
    return [([Message("user", row["prompt"])], row["completion"], 0) for row in _rows(file)]


def _rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
