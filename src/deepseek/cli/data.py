"""`deepseek data`: clean training texts, look at what became of them."""

import argparse
from pathlib import Path
from typing import Any

HELP = "Clean training texts by a TOML file, and look at what became of each of them."
EXAMPLES = (
    "deepseek data clean configs/clean-tiny.toml --out corpus",
    "deepseek data inspect corpus --id docs/docs/guides/training.md",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "action",
        choices=("clean", "report", "inspect"),
        help="clean CONFIG; report DIR (the counts, and its page anew); inspect DIR --id ID",
    )
    parser.add_argument("path", type=Path, metavar="CONFIG|DIR", help="what the action is about")
    parser.add_argument("--out", type=Path, metavar="DIR", help="clean: where the results go")
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
        help="clean: change a setting; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Clean, report or inspect."""
    return {"clean": _clean, "report": _report, "inspect": _inspect}[args.action](args)


def _clean(args: argparse.Namespace) -> int:
    from deepseek.cli.console import next_step, progress_bars, say
    from deepseek.core.errors import ConfigError
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

    from deepseek.core.errors import ConfigError
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
