"""Two runs side by side: differences with intervals, and the items that flipped."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deepseek.core.errors import RequestError
from deepseek.eval.record import Estimate, Record, Report, TaskRun
from deepseek.eval.statistics import (
    WEIGHT,
    Difference,
    Measurements,
    collect,
    estimate,
    metric_names,
    paired_bootstrap,
)
from deepseek.eval.tasks.table import TASKS, find_task

SHOWN_IDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricComparison:
    """One metric over the items that both runs have."""

    metric: str
    a: Estimate
    b: Estimate
    difference: Difference
    """Of `b` from `a`: positive where `b` is higher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskComparison:
    """One task that both runs have."""

    task: str
    metric: str
    """The headline metric, by which items rise and fall."""
    n_common: int
    n_only_a: int
    n_only_b: int
    metrics: tuple[MetricComparison, ...]
    rose: tuple[str, ...]
    """Items with a higher value in `b`, for right or wrong: those that became right."""
    fell: tuple[str, ...]
    differences: tuple[str, ...]
    """How the runs were not asked the same, if that was allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All tasks that both runs have."""

    a: str
    b: str
    """Model and weights of each run."""
    tasks: tuple[TaskComparison, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    """Tasks of only one of the runs."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self)


def compare_reports(a: Report, b: Report, *, allow_differences: bool = False) -> Comparison:
    """Compare two runs over the tasks, metrics and items that both have.

    Args:
        a: The run to start from.
        b: The run to compare with it.
        allow_differences: Compare even what was asked in different ways.

    Raises:
        RequestError: There is nothing in common, or the same task was asked in different ways.
    """
    runs_a, runs_b = _by_task(a), _by_task(b)
    common = [name for name in runs_a if name in runs_b]
    if not common:
        raise RequestError(
            f"the reports have no task in common: {', '.join(runs_a)} and {', '.join(runs_b)}",
            "run the same task on both models",
        )
    tasks = tuple(_compare_task(runs_a[name], runs_b[name], allow_differences) for name in common)
    return Comparison(
        a=_label(a),
        b=_label(b),
        tasks=tasks,
        only_a=tuple(name for name in runs_a if name not in runs_b),
        only_b=tuple(name for name in runs_b if name not in runs_a),
    )


def comparison_text(comparison: Comparison) -> str:
    """The comparison as plain text for a terminal."""
    lines = [f"a: {comparison.a}", f"b: {comparison.b}"]
    for task in comparison.tasks:
        counted = f"{task.n_common:,} items in both"
        alone = [f"{n:,} only in {x}" for x, n in (("a", task.n_only_a), ("b", task.n_only_b)) if n]
        lines += ["", f"{task.task}: {', '.join([counted, *alone])}"]
        lines += [f"  not asked the same: {text}" for text in task.differences]
        lines += [f"  {line}" for line in _table(task.metrics)]
        lines += [
            f"  {task.metric} {word} for {len(ids):,}{_some(ids)}"
            for word, ids in (("rose", task.rose), ("fell", task.fell))
        ]
    for name, tasks in (("a", comparison.only_a), ("b", comparison.only_b)):
        if tasks:
            lines += ["", f"only in {name}: {', '.join(tasks)}"]
    return "\n".join(lines)


def _by_task(report: Report) -> dict[str, TaskRun]:
    runs = {run.task: run for run in report.runs}
    if len(runs) != len(report.runs):
        raise RequestError("a report has the same task twice", "run each task once a report")
    return runs


def _label(report: Report) -> str:
    return f"{report.model} ({report.weights}, {report.date})"


def _compare_task(a: TaskRun, b: TaskRun, allow_differences: bool) -> TaskComparison:
    items_a, items_b = _by_id(a), _by_id(b)
    ids = [name for name in items_a if name in items_b]
    if not ids:
        raise RequestError(f"the runs of {a.task} have no item in common", "use the same --limit")
    pairs = [(items_a[name], items_b[name]) for name in ids]
    differences = _differences(a, b, pairs)
    if differences and not allow_differences:
        raise RequestError(
            f"{a.task} was not asked the same way in both runs: {'; '.join(differences)}",
            "run both with the same options, or pass --allow-differences",
        )
    metrics, rose, fell = _measure_pairs(a, pairs)
    return TaskComparison(
        task=a.task,
        metric=a.metric,
        n_common=len(ids),
        n_only_a=len(items_a) - len(ids),
        n_only_b=len(items_b) - len(ids),
        metrics=metrics,
        rose=rose,
        fell=fell,
        differences=differences,
    )


def _by_id(run: TaskRun) -> dict[str, Record]:
    items = {record.id: record for record in run.records}
    if len(items) != len(run.records):
        raise RequestError(f"{run.task} has items of the same id", "run the evaluation again")
    return items


def _differences(a: TaskRun, b: TaskRun, pairs: Sequence[tuple[Record, Record]]) -> tuple[str, ...]:
    """In what the question differed, not the answer. The items' number and choice may differ."""
    found = [
        f"{name} {getattr(a, name)!r} and {getattr(b, name)!r}"
        for name in ("protocol", "metric", "shots", "chat")
        if getattr(a, name) != getattr(b, name)
    ]
    prompts = sum(x.prompt_sha256 != y.prompt_sha256 for x, y in pairs)
    if prompts:
        found.append(f"other prompts for {prompts:,} of {len(pairs):,} items")
    expected = sum(x.expected != y.expected for x, y in pairs)
    if expected:
        found.append(f"other expected answers for {expected:,} of {len(pairs):,} items")
    return tuple(found)


def _measure_pairs(
    run: TaskRun, pairs: Sequence[tuple[Record, Record]]
) -> tuple[tuple[MetricComparison, ...], tuple[str, ...], tuple[str, ...]]:
    """Every common metric, and the ids of the items whose headline rose or fell."""
    by_group = run.task in TASKS and find_task(run.task).by_group
    names_a, names_b = (metric_names(pair[side] for pair in pairs) for side in (0, 1))
    common = [name for name in names_a if name in names_b]
    # The headline comes first, and counts even where one of the runs only has errors.
    head = [run.metric] if run.metric in {*names_a, *names_b} else []
    names = dict.fromkeys((*head, *common))
    metrics: list[MetricComparison] = []
    rose: tuple[str, ...] = ()
    fell: tuple[str, ...] = ()
    for name in names:
        kept, a, b = _paired(pairs, name)
        if not kept:
            continue
        if name == run.metric:
            rose = tuple(kept[i] for i in (b.values > a.values).nonzero()[0])
            fell = tuple(kept[i] for i in (b.values < a.values).nonzero()[0])
        metrics.append(
            MetricComparison(
                metric=name,
                a=estimate(a, by_group=by_group),
                b=estimate(b, by_group=by_group),
                difference=paired_bootstrap(a, b, by_group=by_group),
            )
        )
    return tuple(metrics), rose, fell


def _paired(
    pairs: Sequence[tuple[Record, Record]], name: str
) -> tuple[list[str], Measurements, Measurements]:
    """The items that have a metric in both runs, in the same order."""
    both = [(x, y) for x, y in pairs if _has(x, name) and _has(y, name)]
    if any(name + WEIGHT in record.grades for pair in both for record in pair):
        # A likelihood that one run lacks cannot be compared: the item is left out on both sides.
        both = [(x, y) for x, y in both if not x.error and not y.error]
    a, b = ([pair[side] for pair in both] for side in (0, 1))
    return [record.id for record in a], collect(a, name), collect(b, name)


def _has(record: Record, name: str) -> bool:
    return bool(record.error) or name in record.grades


def _table(metrics: Sequence[MetricComparison]) -> list[str]:
    head = ("metric", "a", "b", "b - a", "95 % interval", "p", "p (McNemar)")
    rows: list[tuple[str, ...]] = [head]
    for m in metrics:
        d = m.difference
        shown = (m.a.value, m.b.value)
        exact = "" if d.p_exact is None else _p(d.p_exact)
        interval = f"{d.low:+.4f} to {d.high:+.4f}"
        row = (m.metric, *(f"{v:.4f}" for v in shown), f"{d.value:+.4f}", interval, _p(d.p), exact)
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _some(ids: Sequence[str]) -> str:
    if not ids:
        return ""
    more = ", …" if len(ids) > SHOWN_IDS else ""
    return f": {', '.join(ids[:SHOWN_IDS])}{more}"
