"""The same tasks on a Ray cluster, through Ray Data; the folders must be the same on all nodes.

A task that is lost with its worker or its node is done again; what it writes is the same.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from deepseek.core.errors import MissingDependencyError
from deepseek.data.quality.config import CleanConfig
from deepseek.data.quality.pool import Task
from deepseek.data.quality.runner import ShardRunner


class RayPool:
    """Workers of the cluster that `ray.init` finds, or of one on this machine."""

    def __init__(self, config: CleanConfig, out: Path, n_workers: int) -> None:
        """Connect.

        Raises:
            MissingDependencyError: Ray is not installed.
        """
        try:
            import ray
        except ImportError:
            raise MissingDependencyError(
                "Ray is not installed", "pip install 'deepseek[ray]', or leave --ray out"
            ) from None
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        self._config, self._out, self._n_workers = config, out.absolute(), n_workers

    def run(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """As they end."""
        import ray

        rows = [{"number": t.number, "shard": t.shard, "text": t.text} for t in tasks]
        if not rows:
            return
        n_blocks = min(len(rows), 4 * self._n_workers)
        data = ray.data.from_items(rows, override_num_blocks=n_blocks).map(
            cast(Any, _RayRunner),  # a class is called once a worker, its instance once a row
            fn_constructor_args=(self._config, self._out),
            concurrency=min(self._n_workers, len(rows)),
            num_cpus=1,
        )
        for row in data.iter_rows():
            yield Task(row["number"], row["shard"], row["text"])


class _RayRunner:
    """What a worker of the cluster keeps between tasks."""

    def __init__(self, config: CleanConfig, out: Path) -> None:
        self._runner = ShardRunner(config, out)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do one task, unless an attempt before has finished it."""
        number, shard = int(row["number"]), int(row["shard"])
        if not self._runner.layout.tally(number, shard).exists():
            self._runner.run(number, shard, str(row["text"]))
        return row
