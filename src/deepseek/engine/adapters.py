"""The adapters of an engine by name: requests hold them, and what none holds can be given back."""

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from deepseek.core.errors import ConfigError, RequestError
from deepseek.engine.memory import Held, Memory, reading_bytes
from deepseek.engine.runner import Runner
from deepseek.model.adapter import Parts, fit, native_bytes
from deepseek.model.budget import ROWS
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

    def __init__(
        self,
        runner: Runner,
        turn: Callable[[], AbstractContextManager[None]],
        on_end: Callable[[str], None],
    ) -> None:
        """Look after the adapters of a runner.

        Args:
            runner: Adds them to the model.
            turn: Waited for, and held while the runner is used.
            on_end: Told the name of one that is gone, in a turn.
        """
        self.memory: Memory | None = None
        """The memory budget that they are to share."""
        self._runner, self._turn, self._on_end = runner, turn, on_end
        self._held: dict[str, Held] = {}
        self._guard = threading.Lock()
        self._loaded: dict[str, LoadedAdapter] = {}
        self._holders: Counter[int] = Counter()

    @property
    def loaded(self) -> tuple[LoadedAdapter, ...]:
        """All, in the order of loading."""
        with self._guard:
            return tuple(self._loaded.values())

    def load(self, name: str, path: Path) -> LoadedAdapter:
        """Let requests name an adapter from now on.

        Raises:
            ConfigError: The name cannot be used, or the memory budget has no room.
            CheckpointError: The adapter is damaged, of an unsupported kind, or of another model.
        """
        self._require_free(name)
        held = self._hold(f"adapter {name!r}", reading_bytes(path))
        try:
            # Reading and checking take no turn: nobody need wait for that.
            file = read_adapter(path)
            parts = fit(file, self._runner.model.config)
            with self._turn():
                adapter = self._add(name, file, parts)
        except BaseException:
            self._give_back(held)
            raise
        n_bytes = native_bytes(parts, ROWS)
        del file, parts
        if self.memory is not None and held is not None:
            with self._turn():
                self.memory.shrink(held, n_bytes)
            self._held[name] = held
        return adapter

    def unload(self, name: str) -> None:
        """Give an adapter back, and what was read with it.

        Raises:
            RequestError: There is none of that name, or requests have it.
        """
        with self._turn():
            self._remove(name)
            self._on_end(name)
        self._give_back(self._held.pop(name, None))

    def _hold(self, what: str, n_bytes: int) -> Held | None:
        """Let something have memory of the budget, if there is one."""
        if self.memory is None or not n_bytes:
            return None
        with self._turn():
            return self.memory.take(what, n_bytes)

    def _give_back(self, held: Held | None) -> None:
        if self.memory is not None and held is not None:
            with self._turn():
                self.memory.give_back(held)

    def _add(self, name: str, file: AdapterFile, parts: Parts) -> LoadedAdapter:
        self._require_free(name)
        adapter = LoadedAdapter(
            name=name,
            path=file.path,
            base=file.base,
            rank=max(part.rank for part in parts.values()),
            n_parameters=sum(p.down.numel() + p.up.numel() for p in parts.values()),
            fingerprint=file.fingerprint,
            number=self._runner.add_adapter(parts, file.fingerprint),
        )
        with self._guard:
            self._loaded[name] = adapter
        return adapter

    def _remove(self, name: str) -> None:
        with self._guard:
            adapter = self._named(name)
            if n_holders := self._holders[adapter.number]:
                raise RequestError(
                    f"the adapter {name!r} is in use by {n_holders} requests",
                    "wait for their ends, or cancel them",
                )
            del self._loaded[name]
        self._runner.remove_adapter(adapter.number)

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
