"""`deepseek pull`: fetch a checkpoint into the cache."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HELP = "Fetch a checkpoint, sample document or texts to train on: resumable, verified, atomic."
EXAMPLES = ("deepseek pull smollm2-135m", "deepseek pull qwen2.5-coder-1.5b --verify")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", help="a name from `deepseek models`, or hf:owner/name")
    parser.add_argument("--verify", action="store_true", help="hash again what is here already")


def run(args: argparse.Namespace) -> int:
    """Pull one checkpoint and print where it is."""
    from deepseek.cli.console import next_step
    from deepseek.weights.pull import pull

    with pull_bar(args.name) as on_progress:
        checkpoint = pull(args.name, on_progress, verify=args.verify)
    print(checkpoint.path)
    if checkpoint.kind == "document":
        next_step(f"deepseek papers analyze {args.name} --out report.html")
    elif checkpoint.kind == "gguf":
        next_step(f"deepseek chat --model {args.name}")
    elif checkpoint.kind == "texts":
        next_step('name this folder in the "paths" of a source of deepseek train')
    return 0


@contextmanager
def pull_bar(name: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar in bytes that appears when a pull has something to do."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from deepseek.cli.console import STDERR, say

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=STDERR,
        transient=True,
    )
    task = None

    def show(step: str, done: int, total: int) -> None:
        nonlocal task
        if task is None:
            say(f"pulling {name} ({total / 2**20:,.0f} MiB)")
            task = bar.add_task(step, total=total)
            if STDERR.is_terminal:
                bar.start()
        bar.update(task, description=f"{step} {name}", completed=done, total=total)

    try:
        yield show
    finally:
        if STDERR.is_terminal:
            bar.stop()
