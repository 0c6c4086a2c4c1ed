"""What every verb shows on standard error: progress bars on a terminal, and the next step."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from deepseek.core.errors import ConfigError
from deepseek.core.llm import Completion
from deepseek.core.log import LOGGER

STDERR = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line for people, on stderr."""
    STDERR.print(text, markup=False, soft_wrap=True)


def next_step(command: str) -> None:
    """What to try next."""
    say(f"next: {command}")


def log_completion(completion: Completion) -> None:
    """What an answer took and saw, in two lines of the log."""
    LOGGER.info(
        "%d prompt tokens, of which %d were kept, in %.2f s, %d answer tokens in %.2f s",
        completion.n_prompt_tokens,
        completion.n_reused_tokens,
        completion.prefill_seconds,
        len(completion.token_ids),
        completion.decode_seconds,
    )
    if completion.n_drafted:
        LOGGER.info("guessed %d tokens, %d right", completion.n_drafted, completion.n_accepted)
    if completion.experts is not None:
        say(f"experts: {completion.experts.describe()}")
    if completion.attended is not None:
        LOGGER.info("%s", completion.attended.describe())


def write_report(path: Path, text: str) -> None:
    """Write a report whole or not at all, readable for others.

    Raises:
        ConfigError: The place cannot be written.
    """
    from deepseek.weights.cache import write_atomically

    try:
        write_atomically(path, text.encode("utf-8", "replace"))
        path.chmod(0o644)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", "choose another place with --out"
        ) from None


def is_interactive() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


class ReadingBar:
    """A bar with time left while a long prompt is read; call it with tokens read and to read.

    Used in a `with` block, which takes it away; `stop` does so earlier.
    """

    LONG = 4_096
    """Tokens from which reading is worth a bar."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show tokens read and to read."""
        if total < self.LONG or not STDERR.is_terminal:
            return
        if self._bar is None:
            self._bar = _bar((MofNCompleteColumn(), TextColumn("tokens")))
            self._bar.add_task("reading", total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def stop(self) -> None:
        """All is read."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> "ReadingBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def progress_bar(
    title: str, columns: tuple[ProgressColumn, ...] = (MofNCompleteColumn(),)
) -> Iterator[Callable[[int, int], None]]:
    """A bar with time left, only on a terminal. Yields a callback of done and total."""
    if not STDERR.is_terminal:
        yield lambda done, total: None
        return
    with _bar(columns) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars with time left, only on a terminal. Yields a callback of title, done and total.

    Each title has a bar of its own, which goes when it is full.
    """
    if not STDERR.is_terminal:
        yield lambda title, done, total: None
        return
    with _bar((MofNCompleteColumn(),)) as bar:
        tasks: dict[str, TaskID] = {}

        def show(title: str, done: int, total: int) -> None:
            if title not in tasks:
                tasks[title] = bar.add_task(title, total=None)
            bar.update(tasks[title], completed=done, total=total, visible=done < total)

        yield show


def _bar(columns: tuple[ProgressColumn, ...]) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=STDERR,
        transient=True,
    )
