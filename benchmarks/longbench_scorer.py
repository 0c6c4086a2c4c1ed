"""LongBench's scorer against the official one on stored predictions.

    python benchmarks/longbench_scorer.py --official FOLDER --predictions FOLDER

FOLDER of `--official` holds the official `metrics.py` and `eval.py` (LongBench/ of its repository)
and, unless they are installed, the packages they import: rouge, jieba and fuzzywuzzy. They run in
a process of their own, called from its main module as the official script calls them, because the
depth of the stack decides where the recursion of the package rouge ends. `--predictions` holds
JSON files as of MiniLongBench: {"0": {"prediction": …, "gold": [answers] or {"answers": …,
"all_classes": …}}, …}, one file a dataset, whose name ends with the dataset's.

Each prediction is scored as it is and in several variants made from it (cut, shuffled, doubled,
noisy, empty, the gold answer, …), so that scores other than 0 and rare paths are covered. Two
scores agree if they are the same floating-point number; a dataset's, if the rounded means are.
The fixed parts of the files' `origin_prompt` are compared with our prompt's too; the tool that
made MiniLongBench's has other prompts for narrativeqa, qasper and multi_news.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepseek.eval.longbench.datasets import DATASETS, score_of
from report import Row

CHILD = r"""
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = sys.argv[1:]
import eval as official
import jieba
jieba.setLogLevel(60)

def item(dataset, prediction, answers, all_classes):
    score = 0.
    if dataset in ["trec", "triviaqa", "samsum", "lsht"]:
        prediction = prediction.lstrip('\n').split('\n')[0]
    for answer in answers:
        score = max(score, official.dataset2metric[dataset](
            prediction, answer, all_classes=all_classes))
    return score

cases = json.load(sys.stdin)
items, sets = [], {}
for case in cases:
    items.append(item(case["dataset"], case["prediction"], case["answers"], case["classes"]))
for name in dict.fromkeys((case["dataset"], case["variant"]) for case in cases):
    rows = [case for case in cases if (case["dataset"], case["variant"]) == name]
    sets["/".join(name)] = official.scorer(
        name[0], [row["prediction"] for row in rows], [row["answers"] for row in rows],
        rows[0]["classes"])
json.dump({"items": items, "sets": sets}, sys.stdout)
"""

NOISE = "答案 of 3 Paragraph 12 段落7，the é😀\u00a0\n.//`#\t第一"


@dataclass(frozen=True, slots=True)
class Case:
    """One prediction with what it is scored against."""

    dataset: str
    variant: str
    prediction: str
    answers: list[str]
    classes: list[str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many scores there are, and how many of them differ."""

    items: int
    differing: int
    datasets: int
    """Means of one dataset under one variant."""
    datasets_differing: int
    above_zero: int
    stored: int
    """Items that are scored as they were stored."""
    stored_differing: int
    prompts: int
    """Stored prompts that have all fixed parts of ours in place."""
    other_prompts: tuple[str, ...]
    """Datasets whose stored prompts are others."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--official", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--packages", type=Path, help="a folder with fuzzywuzzy")
    parser.add_argument("--verbose", action="store_true", help="print each score that differs")
    options = parser.parse_args()
    done = compare(options.official, options.predictions, options.packages, options.verbose)
    for name, value in asdict(done).items():
        print(f"{name.replace('_', ' ')}: {value}")
    sys.exit(1 if done.differing or done.datasets_differing else 0)


def rows(official: Path, predictions: Path, packages: Path | None = None) -> list[Row]:
    """The comparison as rows of a results file."""
    done = compare(official, predictions, packages)
    peer = "official metrics.py"
    return [
        Row(
            f"LongBench scorer: stored items that differ, of {done.stored}",
            *(done.stored_differing, "items"),
            peer=peer,
            must=0,
            better="lower",
        ),
        Row(
            f"LongBench scorer: items that differ with variants, of {done.items}",
            *(done.differing, "items"),
            peer=peer,
            must=0,
            better="lower",
        ),
        Row(
            f"LongBench scorer: rounded means of datasets that differ, of {done.datasets}",
            *(done.datasets_differing, "means"),
            peer=peer,
            must=0,
            better="lower",
        ),
    ]


def compare(
    official: Path, predictions: Path, packages: Path | None = None, verbose: bool = False
) -> Comparison:
    """Score all predictions and variants with both scorers."""
    cases = [variant for case in stored(predictions) for variant in variants(case)]
    theirs = official_scores(cases, official, packages)
    ours = [score_of(c.dataset, c.prediction, c.answers, c.classes) for c in cases]
    wrong = [
        (case, mine, other)
        for case, mine, other in zip(cases, ours, theirs["items"], strict=True)
        if mine != 100 * other
    ]
    for case, mine, other in wrong if verbose else ():
        print(f"{case.dataset} {case.variant}: {mine!r} for {other!r}: {case.prediction[:200]!r}")
    same = [(name, has_prompt(name, text)) for name, text in stored_prompts(predictions)]
    means = {name: dataset_mean(cases, name) for name in theirs["sets"]}
    return Comparison(
        items=len(cases),
        differing=len(wrong),
        datasets=len(means),
        datasets_differing=sum(means[name] != value for name, value in theirs["sets"].items()),
        above_zero=sum(score > 0 for score in ours),
        stored=sum(case.variant == "stored" for case in cases),
        stored_differing=sum(case.variant == "stored" for case, _, _ in wrong),
        prompts=sum(agrees for _, agrees in same),
        other_prompts=tuple(dict.fromkeys(name for name, agrees in same if not agrees)),
    )


def dataset_mean(cases: Sequence[Case], name: str) -> float:
    """The official mean of a dataset and variant, two digits."""
    chosen = [case for case in cases if f"{case.dataset}/{case.variant}" == name]
    scores = [score_of(c.dataset, c.prediction, c.answers, c.classes) for c in chosen]
    return round(sum(scores) / len(scores), 2)


def official_scores(cases: Sequence[Case], official: Path, packages: Path | None) -> dict[str, Any]:
    """What the official functions give, in their own process."""
    folders = [str(folder.resolve()) for folder in (official, packages) if folder]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *folders],
        input=json.dumps([asdict(case) for case in cases]),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    if done.returncode:
        sys.exit(f"the official scorer failed:\n{done.stderr}")
    scores: dict[str, Any] = json.loads(done.stdout)
    return scores


def stored(folder: Path) -> Iterator[Case]:
    """The predictions of all files."""
    for dataset, row in stored_rows(folder):
        gold = row["gold"]
        has_classes = isinstance(gold, dict)
        yield Case(
            dataset=dataset,
            variant="stored",
            prediction=row["prediction"],
            answers=gold["answers"] if has_classes else gold,
            classes=gold["all_classes"] if has_classes else [],
        )


def stored_prompts(folder: Path) -> Iterator[tuple[str, str]]:
    """Dataset and prompt of all predictions."""
    for dataset, row in stored_rows(folder):
        yield dataset, row["origin_prompt"]


def stored_rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of all files with their dataset."""
    for path in sorted(folder.glob("*.json")):
        dataset = next(name for name in DATASETS if path.stem.endswith(f"_{name}"))
        for row in json.loads(path.read_text(encoding="utf-8")).values():
            yield dataset, row


def has_prompt(dataset: str, text: str) -> bool:
    """Whether a prompt is ours but for what stands in the place of context and input."""
    fixed = DATASETS[dataset].prompt.replace("{input}", "{context}").split("{context}")
    pattern = ".*".join(re.escape(part) for part in fixed)
    return re.fullmatch(pattern, text, re.DOTALL) is not None


def variants(case: Case) -> Iterator[Case]:
    """A case and others made from it; the same each time."""
    generator = random.Random(f"{case.dataset}{case.prediction}")
    text, gold = case.prediction, generator.choice(case.answers)
    words = text.split()
    made = {
        "stored": text,
        "empty": "",
        "dots": "..",
        "cut": text[: generator.randrange(len(text) + 1)],
        "shuffled": " ".join(generator.sample(words, len(words))),
        "doubled": f"{text}\n{text}",
        "long": " ".join((words or ["x"]) * 20).replace(".", ""),
        "noisy": "".join(c if generator.random() < 0.8 else generator.choice(NOISE) for c in text),
        "gold": gold,
        "gold first": f"\n\n{gold}\n{text}",
        "gold cut": gold[: generator.randrange(len(gold) + 1)],
        "gold noisy": "".join(
            c if generator.random() < 0.9 else generator.choice(NOISE) for c in gold
        ),
        "gold long": " ".join([gold.replace(".", " ")] * generator.randint(2, 12)),
        "classes": ", ".join(generator.sample(case.classes, min(4, len(case.classes)))),
        "classes and gold": ", ".join(
            [*generator.sample(case.classes, len(case.classes) // 3), gold]
        ),
        "numbers": " ".join(str(generator.randrange(30)) for _ in range(12)),
    }
    for name, prediction in made.items():
        yield Case(case.dataset, name, prediction, case.answers, case.classes)


if __name__ == "__main__":
    main()
