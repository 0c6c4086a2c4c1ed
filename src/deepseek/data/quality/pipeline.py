"""A cleaning run: plan, passes over shards, what global operators settle, results.

Killed at any moment it goes on where it was, and ends in the same bytes as one that was not killed,
with any number of workers: a shard's task writes files whole or not at all, and depends on nothing
but the shard, the settings and what was settled.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepseek.core.errors import ConfigError
from deepseek.core.llm import LanguageModel
from deepseek.data.quality.config import CleanConfig
from deepseek.data.quality.layout import (
    KEPT,
    Layout,
    save_arrays,
    write_json,
)
from deepseek.data.quality.plan import Shard, make_plan
from deepseek.data.quality.pool import Pool, SerialPool, Task, open_pool
from deepseek.data.quality.runner import ShardRunner, read_tally
from deepseek.data.quality.shard import NEW
from deepseek.data.quality.survey import survey_of
from deepseek.data.quality.tally import Tally
from deepseek.weights.cache import file_hash, try_lock, write_atomically

VERSION = 1
"""Of what makes documents of the same input and settings."""
OnProgress = Callable[[str, int, int], None]
"""Called with a title, shards done and shards in all."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A complete run."""

    out: Path
    tally: Tally
    was_there: bool = False
    """Whether it was complete before."""


class Pipeline:
    """One run; `run` does it, or what is left of it."""

    def __init__(
        self,
        config: CleanConfig,
        out: Path,
        *,
        n_workers: int = 1,
        use_ray: bool = False,
        open_model: Callable[[str], LanguageModel] | None = None,
    ) -> None:
        """Check the settings of all operators.

        Raises:
            ConfigError: A setting is wrong.
            MissingDependencyError: An operator needs a package that is not installed.
        """
        self.config = config
        self.layout = Layout(out.absolute())
        self._n_workers, self._use_ray = n_workers, use_ray
        self._runner = ShardRunner(config, self.layout.out, open_model)
        self._passes = self._runner.passes

    def run(self, on_progress: OnProgress | None = None) -> Outcome:
        """Do all passes.

        Raises:
            ConfigError: The folder holds another run, is in use, or cannot be written.
            DocumentError: An input does not exist, or workers die of one.
        """
        try:
            with _locked(self.layout):
                return self._run(on_progress or (lambda title, done, total: None))
        except OSError as error:
            raise ConfigError(
                f"cannot write {error.filename or self.layout.out}: {error.strerror or error}",
                "free some space or choose another --out; the same command goes on where it was",
            ) from None
        finally:
            self._runner.close()

    def _run(self, on_progress: OnProgress) -> Outcome:
        plan = make_plan(self.config)
        identity = self._identity(plan)
        if self.layout.manifest.exists():
            manifest = read_manifest(self.layout.out)
            if manifest["identity"] != identity:
                raise _other_run(self.layout.out)
            shutil.rmtree(self.layout.work)
            return Outcome(self.layout.out, Tally.from_table(manifest["tally"]), was_there=True)
        self._begin(plan, identity)
        for operator in self._runner.operators:
            operator.prepare()
        with self._pool() as pool:
            for number, current in enumerate(self._passes):
                chosen = pool if current.in_pool else SerialPool(self._runner)
                self._pass(number, plan, chosen, on_progress)
                if current.scores is not None and not self.layout.state(number).exists():
                    on_progress(f"settling {self.config.steps[current.scores].label}", 0, 1)
                    self._settle(number, current.scores, len(plan))
        tally = self._total(len(plan))
        self._finish(tally, identity, len(plan))
        return Outcome(self.layout.out, tally)

    def _identity(self, plan: Sequence[Shard]) -> str:
        """Of settings and input; sizes stand for the files' contents."""
        config = self.config
        table = {
            "version": VERSION,
            "settings": asdict(config.settings),
            "steps": [asdict(step) for step in config.steps],
            "inputs": [
                [str(file), file_hash(file, hashlib.sha256())]
                for operator in self._runner.operators
                for file in operator.inputs()
            ],
            "sources": {name: asdict(source) for name, source in config.sources.items()},
            "files": [[i.name, i.size, i.start, i.end] for s in plan for i in s.items],
        }
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()

    def _begin(self, plan: Sequence[Shard], identity: str) -> None:
        """Keep what the run is of, or compare with what was kept."""
        for left in self.layout.out.glob(f"**/{NEW}*"):
            left.unlink(missing_ok=True)
        file = self.layout.work / "run.json"
        changed = hashlib.sha256("\n".join(shard.as_json() for shard in plan).encode())
        table = {"identity": identity, "plan": changed.hexdigest()}
        if file.exists():
            if json.loads(file.read_text(encoding="utf-8")) != table:
                raise _other_run(self.layout.out)
            return
        there = [path.name for path in self.layout.out.iterdir() if path != self.layout.work]
        if there:
            raise ConfigError(
                f"{self.layout.out} holds {there[0]} already", "choose an empty folder with --out"
            )
        write_json(file, table)

    @contextlib.contextmanager
    def _pool(self) -> Iterator[Pool]:
        if self._use_ray:
            from deepseek.data.quality.ray_pool import RayPool

            yield RayPool(self.config, self.layout.out, self._n_workers)
            return
        with open_pool(self._runner, self.config, self.layout.out, self._n_workers) as pool:
            yield pool

    def _pass(
        self, number: int, plan: Sequence[Shard], pool: Pool, on_progress: OnProgress
    ) -> None:
        tasks = [
            Task(number, shard, text.as_json())
            for shard, text in enumerate(plan)
            if not self.layout.tally(number, shard).exists()
        ]
        title, done = f"pass {number + 1} of {len(self._passes)}", len(plan) - len(tasks)
        on_progress(title, done, len(plan))
        for _ in pool.run(tasks):
            done += 1
            on_progress(title, done, len(plan))
        if number:  # nobody reads these texts again
            shutil.rmtree(self.layout.passed(number - 1, 0).parent, ignore_errors=True)

    def _settle(self, number: int, which: int, n_shards: int) -> None:
        operator = self._runner.operators[which]
        with survey_of(self.layout, number, n_shards) as survey:
            operator.settle(survey)
        save_arrays(self.layout.state(number), dict(operator.state()))

    def _total(self, n_shards: int) -> Tally:
        total, n_samples = Tally(), self.config.settings.samples
        for step in self.config.steps:
            total.operator(step.label)  # in their order
        for number in range(len(self._passes)):
            for shard in range(n_shards):
                total.merge(read_tally(self.layout.tally(number, shard)), n_samples)
        return total

    def _finish(self, tally: Tally, identity: str, n_shards: int) -> None:
        files = []
        for shard in range(n_shards):
            path = self.layout.result(KEPT, shard)
            digest = file_hash(path, hashlib.sha256())
            files.append([f"{KEPT}/{path.name}", path.stat().st_size, digest])
        manifest = {
            "version": VERSION,
            "identity": identity,
            "sources": {name: asdict(source) for name, source in self.config.sources.items()},
            "operators": [
                {"use": step.use, "label": step.label, "domains": list(step.domains)}
                | dict(step.table)
                for step in self.config.steps
            ],
            "files": files,
            "tally": tally.as_table(),
        }
        from deepseek.data.quality.report import render_report

        write_atomically(self.layout.report, render_report(manifest).encode())
        self.layout.report.chmod(0o644)
        write_json(self.layout.manifest, manifest)
        shutil.rmtree(self.layout.work)


def read_manifest(out: Path) -> dict[str, Any]:
    """What a complete run says of itself.

    Raises:
        ConfigError: There is no complete run.
    """
    layout = Layout(out)
    try:
        manifest: dict[str, Any] = json.loads(layout.manifest.read_text(encoding="utf-8"))
        if manifest["version"] != VERSION:
            raise ConfigError(f"{out} was written by another version", "clean the data again")
        Tally.from_table(manifest["tally"])
        return manifest
    except OSError:
        if layout.work.exists():
            raise ConfigError(
                f"the run in {out} is not complete", "run deepseek data clean again: it goes on"
            ) from None
        raise ConfigError(f"{out} holds no cleaned data", "name the --out of a run") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{layout.manifest} is damaged", "clean the data again") from None


def _other_run(out: Path) -> ConfigError:
    return ConfigError(
        f"{out} holds a run of other settings or data", "choose another --out, or remove the folder"
    )


@contextlib.contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    """One process at a time works in a folder; the lock goes with the process."""
    layout.work.mkdir(parents=True, exist_ok=True)
    with (layout.work / "lock").open("w") as file:
        if not try_lock(file.fileno()):
            raise ConfigError(f"another process works in {layout.out}", "wait for it")
        yield
