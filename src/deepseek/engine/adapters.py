"""The adapters of an engine by name: requests hold them, and what none holds can be given back."""

import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from deepseek.core.errors import ConfigError, RequestError
from deepseek.engine.runner import Runner
from deepseek.model.adapter import Parts, fit
from deepseek.ops.native_model import NO_ADAPTER
from deepseek.weights.adapter import AdapterFile, read_adapter

MOST = 256
"""Adapters of one model."""
MAX_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedAdapter:
    """An adapter that requests can name."""

    name: str
    path: Path
    base: str
    """The model that it was trained on, for people."""
    rank: int
    """The largest of its matrices."""
    n_parameters: int
    fingerprint: str
    """Of what it adds."""
    number: int
    """By which the runner knows it."""


class Adapters:
    """What is loaded, and how many requests have it. Any thread may call."""

    def __init__(self, runner: Runner) -> None:
        """Look after the adapters of a runner."""
        self._runner = runner
        self._guard = threading.Lock()
        self._loaded: dict[str, LoadedAdapter] = {}
        self._holders: Counter[int] = Counter()

    @property
    def loaded(self) -> tuple[LoadedAdapter, ...]:
        """All, in the order of loading."""
        with self._guard:
            return tuple(self._loaded.values())

    def read(self, name: str, path: Path) -> tuple[AdapterFile, Parts]:
        """Read and check a folder that is to be loaded; nobody need wait for that.

        Raises:
            ConfigError: The name cannot be used, or the model keeps a memory budget.
            CheckpointError: The adapter is damaged, of an unsupported kind, or of another model.
        """
        self._require_free(name)
        if self._runner.budget is not None:
            raise ConfigError(
                "a memory budget has no room for adapters", "load the model without one"
            )
        file = read_adapter(path)
        return file, fit(file, self._runner.model.config)

    def add(self, name: str, file: AdapterFile, parts: Parts) -> LoadedAdapter:
        """Let requests name an adapter from now on; to be called in a turn.

        Raises:
            ConfigError: The name is taken.
        """
        self._require_free(name)
        adapter = LoadedAdapter(
            name=name,
            path=file.path,
            base=file.base,
            rank=max(part.rank for part in parts.values()),
            n_parameters=sum(p.down.numel() + p.up.numel() for p in parts.values()),
            fingerprint=file.fingerprint,
            number=self._runner.add_adapter(parts),
        )
        with self._guard:
            self._loaded[name] = adapter
        return adapter

    def remove(self, name: str) -> LoadedAdapter:
        """Give an adapter back; to be called in a turn.

        Raises:
            RequestError: There is none of that name, or requests have it.
        """
        with self._guard:
            adapter = self._named(name)
            if n_holders := self._holders[adapter.number]:
                raise RequestError(
                    f"the adapter {name!r} is in use by {n_holders} requests",
                    "wait for their ends, or cancel them",
                )
            del self._loaded[name]
        self._runner.remove_adapter(adapter.number)
        return adapter

    def number(self, name: str | None) -> int:
        """By which the runner knows an adapter.

        Raises:
            RequestError: There is none of that name.
        """
        with self._guard:
            return NO_ADAPTER if name is None else self._named(name).number

    def hold(self, name: str | None) -> int:
        """The same, for a request that keeps it from being removed until it calls `release`."""
        with self._guard:
            if name is None:
                return NO_ADAPTER
            number = self._named(name).number
            self._holders[number] += 1
            return number

    def release(self, number: int) -> None:
        """One request less."""
        if number != NO_ADAPTER:
            with self._guard:
                self._holders[number] -= 1

    def of(self, number: int) -> LoadedAdapter | None:
        """The adapter of a number.

        Raises:
            RequestError: It was removed meanwhile.
        """
        if number == NO_ADAPTER:
            return None
        for adapter in self.loaded:
            if adapter.number == number:
                return adapter
        raise RequestError(
            "the adapter of this request was unloaded", "load it again, and ask again"
        )

    def _named(self, name: str) -> LoadedAdapter:
        if name in self._loaded:
            return self._loaded[name]
        names = list(self._loaded)
        if not names:
            raise RequestError(f"there is no adapter {name!r:.100}", "none is loaded: load_adapter")
        raise RequestError(f"there is no adapter {name!r:.100}", f"there are: {', '.join(names)}")

    def _require_free(self, name: str) -> None:
        if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= MAX_NAME:
            raise ConfigError(
                f"an adapter cannot have the name {name!r:.100}", f"1 to {MAX_NAME} letters"
            )
        with self._guard:
            if name in self._loaded:
                raise ConfigError(
                    f"there is an adapter {name!r} already", "unload it first, or use another name"
                )
            if len(self._loaded) >= MOST:
                raise ConfigError(f"{MOST} adapters are loaded", "unload one that is not needed")
