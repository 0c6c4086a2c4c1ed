"""`deepseek papers analyze`: findings about a paper, each with verified quotes."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek.cli.options import add_model_options, open_model
from deepseek.core.errors import ConfigError
from deepseek.core.log import LOGGER

if TYPE_CHECKING:
    from deepseek.apps.papers.analysis import PaperAnalysis

HELP = "Analyse a scientific paper: findings with verbatim quotes and page numbers."
EXAMPLES = (
    "deepseek papers analyze paper.pdf --tasks method_innovation,limitations --out report.html",
    'deepseek papers analyze arXiv:1706.03762 --tasks summary --ask "Which optimizer is used?"',
)
FORMATS = (".md", ".html", ".json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "action", choices=["analyze", "tasks"], help="analyze a paper, or list the tasks"
    )
    parser.add_argument(
        "source", nargs="?", help="a PDF, text or Markdown file, an arXiv id or a URL"
    )
    parser.add_argument(
        "--tasks",
        default="method_innovation,experiment_flaws",
        help="comma-separated (default: %(default)s); `deepseek papers tasks` lists them; words "
        "of your own are a question too",
    )
    parser.add_argument(
        "--ask", action="append", default=[], metavar="QUESTION", help="a free question; repeatable"
    )
    parser.add_argument("--task-file", type=Path, metavar="FILE", help="TOML with more tasks")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="report.md, report.html or report.json"
    )
    parser.add_argument(
        "--read",
        default="auto",
        choices=("auto", "whole", "sentences"),
        help="whole: questions are answered with the whole paper in view, which is read once; "
        "sentences: quicker; auto: whole if the context window holds it (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same paper and seed, same report")
    parser.add_argument(
        "--time-limit", type=float, metavar="SECONDS", help="report what was found until then"
    )
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Analyse one paper, or list the tasks."""
    from deepseek.apps.papers.tasks import builtin_tasks, load_tasks, resolve_tasks

    extra = load_tasks(args.task_file) if args.task_file else {}
    if args.action == "tasks":
        known = {**builtin_tasks(), **extra}
        width = max(map(len, known))
        for name, task in known.items():
            print(f"{name:<{width}}  {task.title['en']}")
        return 0
    if not args.source:
        raise ConfigError("no paper was named", "deepseek papers analyze paper.pdf")
    if args.out and args.out.suffix not in FORMATS:
        raise ConfigError(
            f"--out {args.out} has an unknown format", f"end it with {', '.join(FORMATS)}"
        )
    tasks = [name.strip() for name in args.tasks.split(",") if name.strip()]
    tasks += [q if q.rstrip().endswith(("?", "？")) else f"{q.rstrip()}?" for q in args.ask]
    resolve_tasks(tasks, extra)  # a mistake in them is reported before the model is loaded
    return _analyze(args, tasks)


def _analyze(args: argparse.Namespace, tasks: list[str]) -> int:
    from deepseek.apps.documents.reader import read_document
    from deepseek.apps.papers.progress import AnalysisProgress
    from deepseek.apps.papers.report.labels import reading_label
    from deepseek.cli.console import next_step, progress_bar, progress_bars, say, write_report
    from deepseek.r1 import sample_or_path

    with progress_bar("reading") as on_pages:
        document = read_document(sample_or_path(args.source), on_progress=on_pages)
    model = open_model(args)
    with progress_bars() as on_progress:

        def show(progress: AnalysisProgress) -> None:
            is_reading = progress.unit == "tokens"
            title = "reading the paper, tokens" if is_reading else "analysing"
            on_progress(title, progress.done, progress.total)

        analysis = model.analyze_paper(
            document,
            tasks,
            task_file=args.task_file,
            read=args.read,
            seed=args.seed,
            time_limit=args.time_limit,
            on_progress=show,
            on_finding=lambda finding: say(f"  found: {finding.title}: {finding.statement}"),
        )
    for warning in analysis.warnings:
        say(f"note: {warning}")
    if analysis.reading is not None:
        say(reading_label(analysis.reading, "en"))
    LOGGER.info("timings: %s", {k: round(v, 1) for k, v in analysis.timings.items()})
    if args.out is None:
        print(analysis.to_markdown())
        next_step(f"deepseek papers analyze {args.source} --out report.html")
        return 0
    write_report(args.out, _render(analysis, args.out.suffix))
    n_quotes = sum(e.verified for f in analysis.findings for e in f.evidence)
    print(args.out)
    say(
        f"{len(analysis.findings)} findings with {n_quotes} verified quotes "
        f"in {analysis.timings['total']:.0f} s: {args.out}"
    )
    if args.out.suffix == ".html":
        next_step(f"open {args.out} in a browser; click a page number to see the quote in place")
    return 0


def _render(analysis: "PaperAnalysis", suffix: str) -> str:
    if suffix == ".md":
        return analysis.to_markdown()
    return analysis.to_json() if suffix == ".json" else analysis.to_html()
