"""`deepseek train`: train a model as a TOML file says."""

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek.cli.options import add_run_options

if TYPE_CHECKING:
    from deepseek.train.forecast import Forecast
    from deepseek.train.loop import OnStep, Trainer

HELP = "Train a model on your texts, in stages; a killed run goes on exactly where it was."
EXAMPLES = (
    "deepseek train configs/train-tiny.toml --out runs/tiny",
    "deepseek train configs/train-tiny.toml --out runs/tiny --set run.seed=1 --dry-run",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("config", type=Path, help="a TOML file that describes the run")
    add_run_options(parser, shown="settings, size, memory and tokens")


def run(args: argparse.Namespace) -> int:
    """Train, or show what would be done."""
    from deepseek.train.config import load_training_config

    config = load_training_config(args.config, tuple(args.set))
    if args.dry_run:
        return _dry_run(args, config)
    from deepseek.cli.console import next_step, progress_bars, say
    from deepseek.train.run import prepare_run

    with progress_bars() as show:
        run = prepare_run(
            config,
            args.out,
            resume=args.resume,
            on_files=lambda name, done, total: show(f"encoding {name}", done, total),
        )
    trainer, is_first = run.trainer, run.ranks.is_first
    again = f"deepseek train {args.config} --out {args.out} --resume"
    if is_first:
        for name, text in run.funnels().items():
            say(f"{name}: {text}")
        if trainer.step:
            say(f"going on after step {trainer.step:,} of {trainer.plan.n_steps:,}")
    with stopping(trainer), training_bar(trainer, is_first) as on_step:
        is_done = run.train(on_step)
    if not is_done:
        if is_first:
            say(f"stopped after step {trainer.step:,}; its state is saved")
            next_step(" ".join([again, *(f"--set {text}" for text in args.set)]))
        run.ranks.leave()
        return 130
    outcome = run.finish()
    if is_first:
        _finish(args, outcome)
    run.ranks.leave()
    return 0


def _finish(args: argparse.Namespace, outcome: Any) -> None:
    import json

    from deepseek.cli.console import next_step, say

    if args.json:
        paths = {"model": str(outcome.model or ""), "report": str(outcome.report)}
        print(json.dumps({"bits_per_byte": dict(outcome.bits_per_byte), **paths}, indent=2))
    else:
        for name, value in outcome.bits_per_byte.items():
            print(f"{name}: {value:.4f} bits per byte")
        say(f"report: {outcome.report}")
    if outcome.model is not None:
        next_step(f'deepseek generate "…" --raw --model {outcome.model}')


def _dry_run(args: argparse.Namespace, config: Any) -> int:
    import dataclasses
    import json

    from deepseek.cli.console import next_step
    from deepseek.train.forecast import forecast
    from deepseek.train.prepare import make_tokenizer, model_config, source_files

    files = source_files(config)
    named = config.tokenizer.checkpoint or config.model.get("checkpoint")
    n_tokens = config.tokenizer.vocab_size
    if named:
        n_tokens = make_tokenizer(config, files, args.out).vocab_size
    found = forecast(config, model_config(config, n_tokens), files)
    if args.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
        return 0
    _print_forecast(found)
    next_step(f"deepseek train {args.config} --out {args.out}")
    return 0


def _print_forecast(found: "Forecast") -> None:
    for name, value in found.settings.items():
        print(f"{name} = {value}")
    print()
    print(f"parameters: {found.n_parameters:,}, of which {found.n_trained:,} are trained")
    parts = {
        "weights": found.weight_bytes,
        "gradients and optimiser": found.optimiser_bytes,
        "a pass, about": found.pass_bytes,
    }
    listed = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in parts.items())
    print(f"memory: about {found.n_bytes / 2**20:,.0f} MiB ({listed})")
    for name, source in found.sources.items():
        print(
            f"source {name}: {source['files']:,} files, {source['bytes'] / 1e6:,.1f} MB, "
            f"about {source['tokens']:,} tokens"
        )
    for stage in found.stages:
        print(f"stage {stage['name']}: {stage['steps']:,} steps, {stage['tokens']:,} tokens")
        for name, n_tokens in stage["sources"].items():
            there = max(1, found.sources[name]["tokens"])
            print(f"  {name}: {n_tokens:,} tokens, about {n_tokens / there:.2g} epochs")


@contextmanager
def stopping(trainer: "Trainer") -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run after its step, a second one at once."""

    def stop(number: int, frame: Any) -> None:
        if trainer.stop_requested:
            raise KeyboardInterrupt
        trainer.stop_requested = True

    before = {kind: signal.signal(kind, stop) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextmanager
def training_bar(trainer: "Trainer", is_first: bool = True) -> "Iterator[OnStep | None]":
    """Progress with loss, speed and time left: a bar on a terminal, else some lines."""
    from rich.progress import MofNCompleteColumn, TextColumn

    from deepseek.cli.console import STDERR, progress_bar, say

    if not is_first:
        yield None
        return
    text = TextColumn("")
    total = trainer.plan.n_steps
    every = max(1, total // 20)
    begun = trainer.step
    spent = 0.0

    def described(row: dict[str, Any]) -> str:
        bits = "".join(f", {n} {v:.3f}" for n, v in (row.get("bits_per_byte") or {}).items())
        return (
            f"{row['stage']}, loss {row['loss']:.3f}, {row['tokens_per_second']:,.0f} tokens/s"
            + "".join(f", {name} {value:.3g}" for name, value in row.get("measures", {}).items())
            + (f"; bits per byte{bits[1:]}" if bits else "")
        )

    with progress_bar("training", (MofNCompleteColumn(), text)) as show:

        def on_step(row: dict[str, Any]) -> None:
            nonlocal spent
            spent += row["seconds"]
            text.text_format = described(row)
            show(row["step"], total)
            if not STDERR.is_terminal and (row["step"] % every == 0 or row.get("bits_per_byte")):
                left = spent / (row["step"] - begun) * (total - row["step"])
                say(f"step {row['step']:,} of {total:,}: {described(row)}; {left:,.0f} s left")

        yield on_step
