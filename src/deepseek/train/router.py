"""Trains a router for frozen weights by distillation. A killed run goes on where it was."""

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.core.log import LOGGER
from deepseek.model.config import ModelConfig
from deepseek.model.router import (
    LearnedRouter,
    fill_router,
    read_tensors,
    save_router,
    write_tensors,
)
from deepseek.model.transformer import Transformer
from deepseek.ops.hierarchical import PAGE, UNTRAINED, Hierarchy, Router, Turns
from deepseek.train.distillation import Lesson, Teacher, ask, coverage, divergence

Progress = Callable[[int, int], None]
"""Called with windows done and windows in all."""
FURTHEST = 1 << 14
"""Most pages by which lessons beyond the reach are taken to be farther away: a million tokens."""
MEASURED = 4
"""Pages of a held-out window in which routers are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterTraining:
    """Settings; the defaults take half an hour to an hour for 135 M parameters on one core."""

    windows: int = 24
    size: int = 8_192
    """Tokens of a window."""
    steps: int = 8
    """Of the optimiser, for each window."""
    pages: int = 2
    """Whose queries are compared in a step, 64 in each."""
    rate: float = 1e-2
    warm_up: float = 0.05
    """Share of the steps in which the rate rises; then it falls as a cosine."""
    beyond: float = 0.5
    """Share of the pages that are looked at from the distances beyond the reach."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.windows, self.steps, self.pages) < 1 or not 0 < self.rate < 1:
            raise ConfigError(
                f"windows is {self.windows}, steps {self.steps}, pages {self.pages}, "
                f"rate {self.rate}",
                "use 1 or more, and a rate below 1",
            )
        if self.size % PAGE or not (0 <= self.beyond <= 1 and 0 <= self.warm_up < 1):
            raise ConfigError(
                f"size is {self.size}, beyond {self.beyond}, warm_up {self.warm_up}",
                f"size is a multiple of {PAGE}, the others are shares",
            )


@dataclass(frozen=True, slots=True)
class Coverage:
    """Share of true attention that is seen, with training-free votes, learned votes, and best."""

    plain: float
    learned: float
    best: float

    @property
    def closed(self) -> float:
        """How much of the way from the training-free votes to the best ones is gone."""
        gap = self.best - self.plain
        return (self.learned - self.plain) / gap if gap > 0 else 0.0

    def __str__(self) -> str:
        return (
            f"{self.plain:.4f} -> {self.learned:.4f} of attention, at best {self.best:.4f}: "
            f"{self.closed:.0%} of the gap closed"
        )


class RouterTrainer:
    """One run: a model that stays as it is, windows of text, and the router's state in a file."""

    def __init__(
        self,
        model: Transformer,
        windows: Sequence[Sequence[int]],
        settings: RouterTraining,
        out: Path,
        hierarchy: Hierarchy | None = None,
    ) -> None:
        """Begin, or go on from the state beside `out`.

        Args:
            model: Its attention is the target.
            windows: Token ids, one window after another.
            settings: Of the run; a state is only gone on with under the same ones.
            out: Where the router is written after each window.
            hierarchy: Sinks, window and recall to train for.

        Raises:
            CheckpointError: The state there is damaged or belongs to another run.
        """
        self.model, self.settings = model, settings
        self._windows, self._out = windows, out
        self._near, self._beyond = hierarchies(hierarchy or Hierarchy())
        self._turns = Turns(theta=model.config.rope_theta)
        self.router = LearnedRouter(model.config, seed=settings.seed)
        self._adam = torch.optim.Adam(self.router.parameters(), lr=settings.rate)
        self._state = out.with_name(out.name + ".state")
        self._identity = _identity(model.config, windows, settings, self._near)
        self.n_read = 0
        """Windows that were learned from."""
        if self._state.exists():
            self._resume()

    def run(self, on_progress: Progress | None = None) -> LearnedRouter:
        """Read the windows that are left, and write the router after each.

        Raises:
            CheckpointError: Router or state cannot be written.
        """
        total = len(self._windows)
        for number in range(self.n_read, total):
            loss = self._learn(number)
            self.n_read = number + 1
            self._save()
            LOGGER.info("window %d of %d: divergence %.4f", self.n_read, total, loss)
            if on_progress:
                on_progress(self.n_read, total)
        return self.router

    def _learn(self, number: int) -> float:
        """Read one window densely, then take its steps. The mean divergence."""
        settings = self.settings
        draw = random.Random(
            f"{settings.seed} {number}"
        )  # a window's own: resuming changes nothing
        n_pages = settings.size // PAGE
        first = self._near.sinks // PAGE + self._near.window // PAGE + 1
        wanted = min(settings.steps * settings.pages, n_pages - first)
        pages = draw.sample(range(first, n_pages), wanted)
        lessons = listen(self.model, self._windows[number], pages)
        total = 0.0
        for step in range(settings.steps):
            numbers = list(range(step, wanted, settings.steps))
            places = [(n, draw.random() < settings.beyond, _further(draw)) for n in numbers]
            self._set_rate(number * settings.steps + step)
            self._adam.zero_grad()
            for layer, lesson in enumerate(lessons):
                loss = self._loss(layer, lesson, places)
                loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
            self._adam.step()
        return total / (settings.steps * len(lessons))

    def _loss(self, layer: int, lesson: Lesson, places: Sequence[tuple[int, bool, int]]) -> Tensor:
        nodes = self.router.remember(layer, lesson.keys, 0)
        parts = []
        for number, is_beyond, further in places:
            hierarchy = self._beyond if is_beyond else self._near
            asked = ask(lesson, number, hierarchy, self._turns, further)
            expected = asked.expected(self.router, layer, nodes)
            parts.append(divergence(expected, asked.true()))
        return torch.stack(parts).mean()

    def _set_rate(self, step: int) -> None:
        settings = self.settings
        total = len(self._windows) * settings.steps
        warm = max(1, round(settings.warm_up * total))
        along = (step - warm) / max(1, total - warm)
        factor = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * along))
        for group in self._adam.param_groups:
            group["lr"] = settings.rate * factor

    def _save(self) -> None:
        tensors = {name: p.detach() for name, p in self.router.named_parameters()}
        for name, p in self.router.named_parameters():
            for key, value in self._adam.state[p].items():
                tensors[f"{key}.{name}"] = value
        tensors["n_read"] = torch.tensor(self.n_read)
        tensors["identity"] = self._identity
        # The state last: a router without its state is only trained a window more than it says.
        save_router(self.router, self._out)
        write_tensors(self._state, tensors)

    def _resume(self) -> None:
        tensors = read_tensors(self._state)
        if not torch.equal(tensors.get("identity", torch.empty(0)), self._identity):
            raise CheckpointError(
                f"{self._state} belongs to a run with other weights, text or settings",
                "choose another place for the router, or remove the state to begin anew",
            )
        fill_router(self.router, tensors, self._state)
        for name, p in self.router.named_parameters():
            keys = ("step", "exp_avg", "exp_avg_sq")
            try:
                self._adam.state[p] = {key: tensors[f"{key}.{name}"] for key in keys}
            except KeyError as error:
                raise CheckpointError(
                    f"{self._state} has no {error}", "remove it to begin anew"
                ) from None
        self.n_read = int(tensors["n_read"])
        LOGGER.info("going on after %d windows", self.n_read)


def hierarchies(hierarchy: Hierarchy) -> tuple[Hierarchy, Hierarchy]:
    """The same with all pages where they stand, and with all of them moved up."""
    near = replace(hierarchy, dense=0, reach=1 << 40)
    return near, replace(near, reach=1)


@torch.no_grad()
def listen(model: Transformer, ids: Sequence[int], pages: Sequence[int]) -> list[Lesson]:
    """Read a window densely; what was asked in those pages, for each layer."""
    weight = model.norm.weight
    dtype = model.embedding(torch.tensor([[0]], device=weight.device)).dtype
    teacher = Teacher(model.config, pages, dtype=dtype, device=weight.device)
    model.hidden_states(torch.tensor([list(ids)], device=weight.device), teacher)
    return teacher.lessons


def compare(
    model: Transformer,
    router: LearnedRouter,
    windows: Sequence[Sequence[int]],
    hierarchy: Hierarchy,
    furthers: Sequence[int] = (0,),
) -> list[Coverage]:
    """Both routers beside the best choice, in pages that have more to choose from than they recall.

    Args:
        model: Whose attention it is.
        router: The learned one.
        windows: Token ids that nothing was learned from.
        hierarchy: What is seen.
        furthers: For each result, pages by which all is taken to be farther away.
    """
    turns = Turns(theta=model.config.rope_theta)
    sums = [[0.0, 0.0, 0.0] for _ in furthers]
    for ids in windows:
        last = len(ids) // PAGE - 1
        first = min(last, (hierarchy.sinks + hierarchy.window + hierarchy.recall) // PAGE + 8)
        count = min(MEASURED, last - first + 1)
        pages = [last - (last - first) * i // count for i in range(count)]
        lessons = listen(model, ids, pages)
        routers: dict[str, Router] = {"plain": UNTRAINED, "learned": router}
        for total, further in zip(sums, furthers, strict=True):
            found = coverage(routers, lessons, hierarchy, turns, further)
            for i, name in enumerate((*routers, "best")):
                total[i] += found[name] / len(windows)
    return [Coverage(*total) for total in sums]


def _further(draw: random.Random) -> int:
    """Half of the lessons at their own distance, half at one drawn evenly by its logarithm."""
    return 0 if draw.random() < 0.5 else round(FURTHEST ** draw.random())


def _identity(
    config: ModelConfig,
    windows: Sequence[Sequence[int]],
    settings: RouterTraining,
    hierarchy: Hierarchy,
) -> Tensor:
    """A digest of what a run is made of."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((asdict(config), asdict(settings), asdict(hierarchy))).encode())
    for ids in windows:
        digest.update(torch.tensor(list(ids)).numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
