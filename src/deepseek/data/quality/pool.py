"""Who does the tasks of a pass: this process, or worker processes that may die and are replaced."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from deepseek.core.errors import DeepSeekError, DocumentError
from deepseek.data.quality.config import CleanConfig
from deepseek.data.quality.runner import ShardRunner

MAX_DEATHS = 2
"""Of workers while the same tasks were under way."""


@dataclass(frozen=True, slots=True)
class Task:
    """A shard in a pass."""

    number: int
    """Of the pass."""
    shard: int
    text: str
    """The shard as JSON."""


@runtime_checkable
class Pool(Protocol):
    """Does tasks in any order, each at least once."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """Tasks as they are done.

        Raises:
            OSError: A file cannot be written.
            DeepSeekError: An operator refuses its work.
        """
        ...


class SerialPool:
    """This process: for one worker, and for operators that hold a model."""

    def __init__(self, runner: ShardRunner) -> None:
        self._runner = runner

    def run(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """One after the other."""
        for task in tasks:
            self._runner.run(task.number, task.shard, task.text)
            yield task


class ProcessPool:
    """Worker processes on this machine."""

    def __init__(self, config: CleanConfig, out: Path, n_workers: int) -> None:
        self._arguments = (config, out)
        self._n_workers = n_workers

    def run(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """In the order in which they end; what a dead worker had is given to another."""
        left, n_deaths = list(tasks), 0
        while left:
            done: set[Task] = set()
            try:
                for task in self._round(left):
                    done.add(task)
                    yield task
            except BrokenProcessPool:
                n_deaths = 0 if done else n_deaths + 1
                if n_deaths > MAX_DEATHS:
                    raise DocumentError(
                        f"workers die at shard {left[0].shard} or one of the next "
                        f"{self._n_workers}: {left[0].text[:200]}",
                        "memory may be short: try fewer --workers or a smaller clean.shard_bytes",
                    ) from None
            left = [task for task in left if task not in done]

    def _round(self, tasks: Sequence[Task]) -> Iterator[Task]:
        with ProcessPoolExecutor(
            min(self._n_workers, len(tasks)), _context(), _set_up, self._arguments
        ) as executor:
            under_way: dict[Future[None], Task] = {}
            waiting = iter(tasks)
            try:
                while True:
                    # Few ahead: a future holds its task, and there may be very many.
                    for task in waiting:
                        under_way[executor.submit(_run, task)] = task
                        if len(under_way) >= 2 * self._n_workers:
                            break
                    if not under_way:
                        return
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        task = under_way.pop(future)
                        future.result()
                        yield task
            finally:
                executor.shutdown(wait=True, cancel_futures=True)


_runner: ShardRunner | None = None


def _set_up(config: CleanConfig, out: Path) -> None:
    global _runner
    _runner = ShardRunner(config, out)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose main process was killed would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(task: Task) -> None:
    assert _runner is not None
    _runner.run(task.number, task.shard, task.text)


def _context() -> multiprocessing.context.BaseContext:
    """Workers come from a server that has imported what they need, and no thread of ours."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["deepseek.data.quality.runner"])
        return context
    return multiprocessing.get_context("spawn")


@contextlib.contextmanager
def open_pool(runner: ShardRunner, config: CleanConfig, out: Path, n: int) -> Iterator[Pool]:
    """A pool of n workers, or this process alone.

    Raises:
        DeepSeekError: There cannot be so many.
    """
    if n < 1:
        raise DeepSeekError(f"{n} workers", "give 1 or more")
    yield SerialPool(runner) if n == 1 else ProcessPool(config, out, n)
