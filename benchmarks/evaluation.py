"""Public scores on both checkpoints, beside the figures that their makers publish.

    python benchmarks/evaluation.py [--only NAME[,NAME]] [--dtype DTYPE] [--out FOLDER]
        [--longbench-official FOLDER --longbench-predictions FOLDER]

Finished items are kept in `--out`: an interrupted run goes on where it was, and a row that is
complete there costs nothing. What `benchmarks/lm_eval_parity.py` wrote is taken in.
"""

import argparse
import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from deepseek import __version__
from deepseek.core.errors import ConfigError
from deepseek.eval.harness import run_task
from deepseek.eval.record import Report, TaskRun, load_report, save_report
from deepseek.eval.task import Setup
from deepseek.eval.tasks.table import find_task
from deepseek.r1 import R1Model
from report import RESULTS, Row, write_results

PARITY = RESULTS / "lm_eval_parity.json"
SMOL, QWEN = "smollm2-135m", "qwen2.5-coder-1.5b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One score: a task on a model under a protocol, and what is published for it."""

    model: str
    task: str
    metric: str
    limit: int | None = None
    shots: int | None = None
    chat: bool = False
    by_maker: float | None = None
    """The published figure of the weights before quantisation, in percent."""
    must: float | None = None

    @property
    def name(self) -> str:
        """For the table and for `--only`."""
        marks = [
            f"{self.shots}-shot" if self.shots is not None else "",
            "chat" if self.chat else "",
        ]
        some = f"{self.limit} items" if self.limit else ""
        return " ".join(filter(None, (self.task, *marks, some)))

    def file(self, out: Path) -> Path:
        """Where its report is."""
        return out / f"{self.model} {self.name}.json".replace(" ", "-")


# SmolLM2-135M-Instruct: the model card (lighteval, fp16). Qwen2.5-Coder-1.5B-Instruct:
# arXiv:2409.12186, table 16 (evalplus, bf16).
MEASURES = (
    Measure(model=SMOL, task="arc", metric="acc_norm", by_maker=37.3),
    Measure(model=SMOL, task="arc", metric="acc_norm", chat=True, by_maker=37.3),
    Measure(model=SMOL, task="piqa", metric="acc_norm", by_maker=66.3),
    Measure(model=SMOL, task="piqa", metric="acc_norm", chat=True, by_maker=66.3),
    Measure(model=SMOL, task="hellaswag", metric="acc_norm", limit=1_000, by_maker=40.9),
    Measure(model=SMOL, task="hellaswag", metric="acc_norm", limit=1_000, chat=True, by_maker=40.9),
    Measure(model=SMOL, task="gsm8k", metric="flexible_match", limit=400, by_maker=1.4),
    Measure(model=SMOL, task="mmlu_cloze", metric="acc_norm", by_maker=29.3),
    Measure(
        model=SMOL, task="mmlu_cloze", metric="acc_norm", limit=2_000, chat=True, by_maker=29.3
    ),
    Measure(model=SMOL, task="mmlu", metric="acc", limit=2_000),
    Measure(model=SMOL, task="humaneval_completion", metric="pass@1"),
    Measure(model=QWEN, task="humaneval", metric="pass@1", by_maker=70.7, must=68.7),
    Measure(model=QWEN, task="mbpp", metric="pass@1", by_maker=69.2),
    Measure(model=QWEN, task="mbpp_sanitized", metric="pass@1", by_maker=69.2),
    Measure(model=QWEN, task="mmlu", metric="acc", limit=2_000),
    Measure(model=QWEN, task="gsm8k", metric="flexible_match", limit=200),
)


def main() -> None:
    """Measure what is asked for, then write the results of all that was ever finished here."""
    args = _arguments()
    wanted = set(args.only.split(",")) if args.only else None
    for model_name, group in groupby(MEASURES, key=lambda m: m.model):
        chosen = [m for m in group if wanted is None or m.name in wanted or m.task in wanted]
        chosen = [m for m in chosen if args.mbpp or m.task != "mbpp_sanitized"]
        if chosen and not args.collect and args.model in (None, model_name):
            _measure_all(model_name, chosen, args)
            gc.collect()
    rows = list(_finished_rows(args.out))
    rows += list(_parity_rows()) if PARITY.exists() else []
    if args.longbench_official:
        import longbench_scorer

        rows += longbench_scorer.rows(
            args.longbench_official, args.longbench_predictions, args.longbench_packages
        )
    write_results("evaluation", rows, sys.argv)
    for row in rows:
        print(f"{row.name:<80} {row.value:>8.2f} {row.unit}", flush=True)


def _measure_all(name: str, measures: list[Measure], args: argparse.Namespace) -> None:
    """One load of the model, and its scores."""
    model = R1Model(name, threads=args.threads, dtype=args.dtype)
    for measure in measures:
        report = Report(
            model=model.name,
            weights=model.weights,
            compute=model.load_report.compute,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            package=__version__,
            runs=(_run(model, measure, args),),
        )
        save_report(report, measure.file(args.out))


def _finished_rows(out: Path) -> Iterator[Row]:
    """A row for each measure that has a report; the others are named."""
    for measure in MEASURES:
        if measure.file(out).exists():
            yield _row(load_report(measure.file(out)), measure)
        else:
            print(f"not measured yet: {measure.model} {measure.name}", file=sys.stderr)


def _run(model: R1Model, measure: Measure, args: argparse.Namespace) -> TaskRun:
    task = find_task(measure.task)
    shots = task.shots if measure.shots is None else measure.shots
    journal = args.out / "journals" / f"{measure.model}-{measure.task}-{shots}-{measure.chat}.jsonl"

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty() or done % 100 == 0 or done == total:
            print(f"{measure.model} {measure.name}: {done}/{total}", file=sys.stderr, flush=True)

    return run_task(
        model,
        task,
        Setup(shots=shots, chat=measure.chat, model=model, folder=args.mbpp),
        journal=journal,
        limit=measure.limit,
        on_progress=show,
    )


def _row(report: Report, measure: Measure) -> Row:
    (run,) = report.runs
    if measure.metric not in run.summary:
        known = ", ".join(run.summary)
        raise ConfigError(f"{measure.task} has no metric {measure.metric}", f"known: {known}")
    score = run.summary[measure.metric]
    return Row(
        f"{measure.model} ({report.weights}) {measure.name}: {measure.metric}",
        100 * score.value,
        "%",
        peer="maker's figure, unquantised" if measure.by_maker else None,
        peer_value=measure.by_maker,
        rounds=score.n,
        low=100 * score.low,
        high=100 * score.high,
        must=measure.must,
    )


def _parity_rows() -> Iterator[Row]:
    """Rows that the comparison with lm-eval has written."""
    found: list[dict[str, Any]] = json.loads(PARITY.read_text(encoding="utf-8"))["rows"]
    for row in found:
        yield Row(**row)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="names or tasks, comma-separated")
    parser.add_argument("--collect", action="store_true", help="measure nothing, write results")
    parser.add_argument("--model", help="only this checkpoint")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dtype", default="auto", help="as for `deepseek eval`")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"))
    parser.add_argument("--mbpp", type=Path, help="sanitized-mbpp.json of google-research/mbpp")
    parser.add_argument("--longbench-official", type=Path)
    parser.add_argument("--longbench-predictions", type=Path)
    parser.add_argument("--longbench-packages", type=Path, help="a folder with fuzzywuzzy")
    return parser.parse_args()


if __name__ == "__main__":
    main()
