"""What `deepseek eval` does: runs tasks, compares reports, writes pages and the text index."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek.core.errors import ConfigError

if TYPE_CHECKING:
    from deepseek.core.llm import LanguageModel
    from deepseek.eval.harness import OnProgress
    from deepseek.eval.record import Report, TaskRun
    from deepseek.eval.task import Setup, Task


def list_tasks(args: argparse.Namespace) -> int:
    """Print the tasks: name, default shots, headline metric, what is asked."""
    from deepseek.eval.tasks.table import TASKS, find_task

    width = max(map(len, TASKS))
    for name in TASKS:
        task = find_task(name)
        shots = f"{task.shots}-shot"
        print(f"{name:<{width}}  {shots:<6}  {task.metric:<14}  {task.summary}")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Run tasks one after the other, print the scores, write report and page."""
    from deepseek import __version__
    from deepseek.cli.console import next_step, say
    from deepseek.eval.record import Report, save_report
    from deepseek.eval.task import Setup
    from deepseek.eval.tasks.table import find_task
    from deepseek.weights.pull import ensure

    names = [name.strip() for name in args.what.split(",") if name.strip()]
    tasks = [find_task(name) for name in dict.fromkeys(names)]
    for path in (args.json, args.html):
        _require_writable(path)
    _say_layers(tasks)
    setup = Setup(
        shots=0,
        chat=args.chat,
        folder=_data(args.data),
        seed=args.seed,
        lengths=_lengths(args.lengths),
        evaluation_data=ensure("evaluation-data").path,
    )
    _try_items(tasks, setup, args)  # a mistake is reported before the model is loaded
    model = open_backend(args)
    setup = replace(setup, model=model, against=_second(args))
    runs = tuple(_run(task, model, setup, args) for task in tasks)
    report = Report(
        model=model.name,
        weights=str(getattr(model, "weights", "unknown")),
        compute=_compute(model),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        package=__version__,
        runs=runs,
    )
    print(score_table(report))
    if args.json:
        save_report(report, args.json)
        say(f"report: {args.json}")
    if args.html:
        _write_page(report, args.html)
    if not args.html:
        next_step(f"deepseek eval {args.what} --html run.html shows every item, right and wrong")
    return 0


def score_table(report: "Report") -> str:
    """Scores with their intervals, as a table for the terminal."""
    lines = [f"{report.model} ({report.weights})"]
    for run in report.runs:
        asked = f"{len(run.records):,} of {run.n_available:,} items"
        lines += ["", f"{run.task}  {run.shots}-shot  {asked}  {run.seconds:.0f} s"]
        lines.append(f"  {run.protocol}")
        if run.n_errors:
            lines.append(f"  {run.n_errors} items could not be asked")
        for name, score in run.summary.items():
            mark = "*" if name == run.metric else " "
            interval = f"[{score.low:.4f}, {score.high:.4f}]"
            lines.append(f"{mark} {name:<16} {score.value:>9.4f}  {interval}  n={score.n:,}")
    return "\n".join(lines)


def compare(args: argparse.Namespace) -> int:
    """Compare two reports item by item."""
    from deepseek.cli.console import write_report
    from deepseek.eval.compare import compare_reports, comparison_text
    from deepseek.eval.record import load_report

    if len(args.files) != 2:
        raise ConfigError("compare takes two reports", "deepseek eval compare a.json b.json")
    first, second = map(load_report, args.files)
    comparison = compare_reports(first, second, allow_differences=args.allow_differences)
    print(comparison_text(comparison))
    if args.json:
        write_report(
            args.json, json.dumps(comparison.to_dict(), ensure_ascii=False, indent=1) + "\n"
        )
    return 0


def write_page(args: argparse.Namespace) -> int:
    """Make the page of a report."""
    from deepseek.eval.record import load_report

    if len(args.files) != 1:
        raise ConfigError("page takes one report", "deepseek eval page run.json --out run.html")
    out = args.out or args.html or args.files[0].with_suffix(".html")
    _write_page(load_report(args.files[0]), out)
    print(out)
    return 0


def write_index(args: argparse.Namespace) -> int:
    """Index the texts of all evaluation sets, so that training data can be kept clear of them."""
    from deepseek.cli.console import progress_bar, say
    from deepseek.eval.contamination import build_index
    from deepseek.weights.cache import home
    from deepseek.weights.pull import ensure

    out = args.out or home() / "evaluation-index.npz"
    data = _data(args.data)
    folders = [data] if data else []
    with progress_bar("indexing") as on_progress:
        index = build_index(ensure("evaluation-data").path, folders, on_progress)
    index.save(out)
    print(out)
    say(str(index))
    return 0


def show_sandbox(args: argparse.Namespace) -> int:
    """Print which layers confine programs on this machine."""
    from deepseek.eval.sandbox.harness import active_layers

    for layer in active_layers():
        state = "on " if layer.active else "off"
        print(f"{state}  {layer.name:<20} {layer.reason}")
    return 0


def open_backend(args: argparse.Namespace, name: str | None = None) -> "LanguageModel":
    """The model of `--model`, by whoever runs it: our engine, transformers, a server."""
    from deepseek.cli.options import open_model
    from deepseek.r1 import default_model

    chosen = name or args.model or default_model()
    if chosen.startswith(("http://", "https://")):
        from deepseek.backends.openai_server import ServedModel

        return ServedModel(chosen, args.served_name, context_window=args.context_window)
    if args.backend == "transformers":
        from deepseek.backends.transformers_model import TransformersModel

        return TransformersModel(chosen, dtype=args.dtype, device=args.device, threads=args.threads)
    return open_model(argparse.Namespace(**{**vars(args), "model": chosen}))


def _second(args: argparse.Namespace) -> "LanguageModel | None":
    return open_backend(args, args.against) if args.against else None


def _run(
    task: "Task", model: "LanguageModel", setup: "Setup", args: argparse.Namespace
) -> "TaskRun":
    from deepseek.eval.harness import run_task
    from deepseek.eval.journal import fingerprint
    from deepseek.weights.cache import home

    weights = getattr(model, "weights", "")
    mark = fingerprint(model.name, weights, setup.chat, args.shots, args.data, args.lengths)
    journal = home() / "evaluations" / f"{task.name}-{mark}.jsonl"
    with _bar(task.name) as on_progress:
        return run_task(
            model,
            task,
            replace(setup, shots=task.shots if args.shots is None else args.shots),
            journal=journal,
            limit=args.limit,
            only=_words(args.only),
            fresh=args.fresh,
            on_progress=on_progress,
        )


@contextmanager
def _bar(title: str) -> "Iterator[OnProgress]":
    """A progress bar that, when interrupted, says how to go on."""
    from deepseek.cli.console import progress_bar, say

    try:
        with progress_bar(title) as on_progress:
            yield on_progress
    except KeyboardInterrupt:
        say("interrupted: the same command goes on from here (--fresh starts anew)")
        raise


def _data(path: Path | None) -> Path | None:
    """The user's data; what is named as a hub's repository is pulled."""
    from deepseek.cli.pull import pull_bar
    from deepseek.weights.pull import ensure

    name = str(path)
    if path is None or not name.startswith("hf:"):
        return path
    with pull_bar(name) as on_pull:
        return ensure(name, on_pull).path


def _try_items(tasks: "list[Task]", setup: "Setup", args: argparse.Namespace) -> None:
    """Make each task's first item without a model, to find mistakes in --data and --shots."""
    for task in tasks:
        shots = task.shots if args.shots is None else args.shots
        most = max(task.shots, task.max_shots)
        if not 0 <= shots <= most:
            raise ConfigError(
                f"{task.name} has no {shots}-shot form", f"--shots takes 0 to {most} here"
            )
        next(iter(task.items(replace(setup, shots=shots))), None)


def _say_layers(tasks: "list[Task]") -> None:
    """Say how the programs that a task will run are confined."""
    from deepseek.cli.console import say

    if not any(task.runs_code for task in tasks):
        return
    from deepseek.eval.sandbox.harness import active_layers

    layers = active_layers()
    on = [layer.name for layer in layers if layer.active]
    off = [f"{layer.name} ({layer.reason})" for layer in layers if not layer.active]
    say(f"programs run confined by: {', '.join(on)}")
    if off:
        say(f"not available here: {', '.join(off)}")


def _lengths(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError:
        raise ConfigError(f"--lengths {text} is not numbers", "e.g. --lengths 4096,8192") from None


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _compute(model: "LanguageModel") -> str:
    report = getattr(model, "load_report", None)
    return str(report.compute) if report is not None else "unknown"


def _require_writable(path: Path | None) -> None:
    if path is not None and not path.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {path.absolute().parent}", "make it first")


def _write_page(report: "Report", path: Path) -> None:
    from deepseek.cli.console import say, write_report
    from deepseek.eval.page import render_page

    write_report(path, render_page(report))
    say(f"page: {path}")
