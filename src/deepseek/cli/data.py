"""`deepseek data`: clean training texts, look at what became of them, make hard cases."""

import argparse
from pathlib import Path
from typing import Any

from deepseek.cli import entropy, synthesis
from deepseek.cli.options import add_model_options
from deepseek.core.errors import ConfigError

HELP = "Clean training texts, make problems that a model gets wrong, measure how sure it is."
EXAMPLES = (
    "deepseek data clean configs/data/clean-tiny.toml --out corpus",
    "deepseek data synthesize --tasks words/story --model smollm2-135m --out hard",
)
ACTIONS = ("clean", "report", "inspect", "synthesize", "families", "entropy", "feedback")
PATHLESS = ("synthesize", "families")
"""Actions that need no file or folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="clean CONFIG; report DIR (the counts, and its page anew); inspect DIR --id ID; "
        "synthesize CONFIG (problems that the model gets wrong; or with --tasks); families (of "
        "such problems); entropy FILE (of questions: how much the model's answers differ in "
        "meaning); feedback FILE (a log of users' ratings, as training data)",
    )
    parser.add_argument(
        "path", type=Path, nargs="?", metavar="CONFIG|DIR|FILE", help="what the action is about"
    )
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="where the results go: a folder; entropy: a file"
    )
    parser.add_argument("--id", metavar="ID", help="inspect: which document")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="clean: processes (default: all granted CPUs)"
    )
    parser.add_argument("--ray", action="store_true", help="clean: on a Ray cluster")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="clean, synthesize: change a setting; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    synthesis.add_options(parser)
    entropy.add_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Do one of the actions."""
    if args.path is None and args.action not in PATHLESS:
        raise ConfigError(
            f"{args.action} is about a file or folder, and none is named", "deepseek data --help"
        )
    return {
        "clean": _clean,
        "report": _report,
        "inspect": _inspect,
        "synthesize": synthesis.synthesize,
        "families": synthesis.list_families,
        "entropy": entropy.measure,
        "feedback": synthesis.read_feedback,
    }[args.action](args)


def _clean(args: argparse.Namespace) -> int:
    from deepseek.cli.console import next_step, progress_bars, say
    from deepseek.core.threads import thread_count
    from deepseek.data.quality.config import load_clean_config
    from deepseek.data.quality.pipeline import Pipeline

    if args.out is None:
        raise ConfigError("--out is missing", "name a folder for the results")
    config = load_clean_config(args.path, tuple(args.set))
    n_workers, _ = thread_count(args.workers)
    pipeline = Pipeline(
        config, args.out, n_workers=n_workers, use_ray=args.ray, open_model=_open_model
    )
    with progress_bars() as show:
        outcome = pipeline.run(show)
    if outcome.was_there:
        say(f"{args.out} is complete already")
    _print(outcome.tally, args.json)
    say(f"report: {args.out / 'report.html'}")
    next_step(f'name "{args.out}" in the paths of a source of deepseek train')
    return 0


def _open_model(name: str) -> Any:
    from deepseek.r1 import R1Model

    return R1Model(name)


def _report(args: argparse.Namespace) -> int:
    from deepseek.cli.console import say, write_report
    from deepseek.data.quality.layout import Layout
    from deepseek.data.quality.pipeline import read_manifest
    from deepseek.data.quality.report import render_report
    from deepseek.data.quality.tally import Tally

    manifest = read_manifest(args.path)
    _print(Tally.from_table(manifest["tally"]), args.json)
    page = args.out or Layout(args.path).report
    write_report(page, render_report(manifest))
    say(f"report: {page}")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    import json

    from deepseek.data.quality.inspection import find

    if not args.id:
        raise ConfigError("--id is missing", "the report and the files name documents")
    for place, table in find(args.path, args.id):
        if args.json:
            print(json.dumps({"where": place} | table, ensure_ascii=False))
            continue
        print(f"{args.id}: {place}")
        for key, value in table.items():
            if key in ("scores", "edits", "metadata"):
                for name, part in value.items():
                    print(f"  {name} = {part:.6g}" if key == "scores" else f"  {name}: {part}")
            elif key not in ("id", "text", "number"):
                print(f"{key.replace('_', ' ')}: {value}")
        print()
        print(table.get("text", table.get("data", "")))
    return 0


def _print(tally: Any, as_json: bool) -> None:
    import json

    if as_json:
        print(json.dumps(tally.as_table(), ensure_ascii=False))
        return
    n_flaws = sum(tally.flaws.values())
    print(f"read {sum(tally.read.values()):,} documents, {n_flaws:,} records put aside")
    for label, counts in tally.operators.items():
        edited = f", {counts.edited:,} changed" if counts.edited else ""
        print(f"{label}: {counts.dropped:,} of {counts.seen:,} dropped{edited}")
    print(f"kept {sum(tally.kept.values()):,} documents")
