"""`deepseek papers analyze`: findings about a paper, each with verified quotes."""

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek.cli.options import add_model_options, open_model
from deepseek.core.errors import ConfigError
from deepseek.core.log import LOGGER

if TYPE_CHECKING:
    from deepseek.apps.papers.analysis import PaperAnalysis

HELP = "Analyse a scientific paper: findings with verbatim quotes and page numbers."
EXAMPLES = (
    "deepseek papers analyze paper.pdf --tasks method_innovation,experiment_flaws --out report.html",
    'deepseek papers analyze arXiv:1706.03762 --tasks summary --ask "Which optimizer is used?"',
)
FORMATS = (".md", ".html", ".json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "action", choices=["analyze", "tasks"], help="analyze a paper, or list tasks"
    )
    parser.add_argument(
        "source", nargs="?", help="a PDF, text or Markdown file, an arXiv id or a URL"
    )
    parser.add_argument(
        "--tasks",
        default="method_innovation,experiment_flaws",
        help="comma-separated (default: %(default)s); `deepseek papers tasks` lists them",
    )
    parser.add_argument(
        "--ask", action="append", default=[], metavar="QUESTION", help="a free question; repeatable"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="report.md, report.html or report.json"
    )
    parser.add_argument("--seed", type=int, default=0, help="same paper and seed, same report")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Analyse one paper, or list the tasks."""
    from deepseek.apps.papers.tasks import TASKS

    if args.action == "tasks":
        width = max(map(len, TASKS))
        for name, task in TASKS.items():
            print(f"{name:<{width}}  {task.title}")
        return 0
    if not args.source:
        raise ConfigError("no paper was named", "deepseek papers analyze paper.pdf")
    if args.out and args.out.suffix not in FORMATS:
        raise ConfigError(
            f"--out {args.out} has an unknown format", f"end it with {', '.join(FORMATS)}"
        )
    return _analyze(args)


def _analyze(args: argparse.Namespace) -> int:
    from deepseek.apps.documents.reader import read_document
    from deepseek.apps.papers.analyse import analyse_paper, check_tasks
    from deepseek.cli.console import next_step, progress_bar, say

    tasks = [name.strip() for name in args.tasks.split(",") if name.strip()] + args.ask
    check_tasks(tasks)
    with progress_bar("reading") as on_pages:
        document = read_document(args.source, on_progress=on_pages)
    for warning in document.warnings:
        say(f"note: {warning}")
    model = open_model(args)
    with progress_bar("analysing") as on_progress:
        analysis = analyse_paper(
            document,
            model,
            tasks,
            seed=args.seed,
            on_progress=lambda p: on_progress(p.done, p.total),
        )
    LOGGER.info("timings: %s", {k: round(v, 1) for k, v in analysis.timings.items()})
    if args.out is None:
        print(analysis.to_markdown())
        next_step(f"deepseek papers analyze {args.source} --out report.html")
        return 0
    _write(args.out, _render(analysis, document, args.out.suffix))
    n_findings = len(analysis.findings)
    n_quotes = sum(len(f.evidence) for f in analysis.findings)
    print(args.out)
    say(f"{n_findings} findings with {n_quotes} verified quotes: {args.out}")
    if args.out.suffix == ".html":
        next_step(f"open {args.out} in a browser; click a quote to see it on its page")
    return 0


def _render(analysis: "PaperAnalysis", document, suffix: str) -> str:  # type: ignore[no-untyped-def]
    if suffix == ".md":
        return analysis.to_markdown()
    if suffix == ".json":
        return analysis.to_json()
    pdf = Path(document.source) if document.kind == "pdf" else None
    return analysis.to_html(document, pdf)


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", "choose another place with --out"
        ) from None
