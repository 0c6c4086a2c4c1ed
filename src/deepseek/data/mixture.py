"""How much of each source: fixed weights, weights along a stage, and weights that follow progress.

Which source the next window comes from is no matter of chance: the one that is most behind its
share. So the mix is right after every few windows, and three numbers resume it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from deepseek.core.errors import ConfigError

Weight = int | float | list[Any]
"""A number, or points `[share of the stage, weight]` with straight lines between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicSettings:
    """How weights follow progress in learning."""

    bound: float = 3.0
    """A weight is at most so many times its own, and at least its own divided by that."""
    gain: float = 1.0
    """How strongly a source that is learned faster than the others gains weight in a step."""
    retain: float = 0.98
    """What a step keeps of the change: without differences weights go back to their own."""
    fast: float = 0.1
    slow: float = 0.02
    """Shares of the new loss in two running means, whose distance is the progress."""

    def __post_init__(self) -> None:
        if self.bound < 1 or self.gain < 0 or not 0 <= self.retain <= 1:
            raise ConfigError(
                f"mixture.bound is {self.bound}, gain {self.gain}, retain {self.retain}",
                "bound is 1 or more, gain 0 or more, retain a share",
            )
        if not 0 < self.slow < self.fast <= 1:
            raise ConfigError(
                f"mixture.fast is {self.fast}, slow {self.slow}", "0 < slow < fast <= 1"
            )


class ProgressWeights:
    """Factors of the weights: higher for sources whose loss falls faster than the others'."""

    def __init__(self, names: Sequence[str], settings: DynamicSettings) -> None:
        self._settings = settings
        self.factors = dict.fromkeys(names, 1.0)
        self._fast: dict[str, float] = {}
        self._slow: dict[str, float] = {}

    def observe(self, losses: Mapping[str, float]) -> None:
        """Take in a step's mean loss of each source that was in it, and move the factors."""
        settings = self._settings
        for name, loss in losses.items():
            if not math.isfinite(loss):
                continue
            fast, slow = self._fast.get(name, loss), self._slow.get(name, loss)
            self._fast[name] = fast + settings.fast * (loss - fast)
            self._slow[name] = slow + settings.slow * (loss - slow)
        progress = self.progress()
        mean = sum(progress.values()) / max(1, len(progress))
        for name in self.factors:
            ahead = progress.get(name, mean) - mean
            exponent = settings.retain * math.log(self.factors[name]) + settings.gain * ahead
            limit = math.log(settings.bound)
            self.factors[name] = math.exp(min(limit, max(-limit, exponent)))

    def rest(self, name: str) -> None:
        """Leave a source out of the comparison: its weight goes back to its own."""
        self._fast.pop(name, None)
        self._slow.pop(name, None)

    def progress(self) -> dict[str, float]:
        """By how much of its loss each source was learned lately."""
        slow = self._slow
        return {n: (slow[n] - self._fast[n]) / slow[n] if slow[n] > 0 else 0.0 for n in slow}

    def state(self) -> dict[str, Any]:
        """All numbers, for a checkpoint."""
        return {"factors": self.factors, "fast": self._fast, "slow": self._slow}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from saved numbers."""
        self.factors, self._fast = dict(state["factors"]), dict(state["fast"])
        self._slow = dict(state["slow"])


class Mixture:
    """Chooses a source for each window so that shares follow the weights."""

    def __init__(
        self, names: Sequence[str], weights: Mapping[str, Weight], dynamic: ProgressWeights | None
    ) -> None:
        """Start a stage; sources without a weight are left out of it.

        Raises:
            ConfigError: A weight is negative or no points, all are zero, or a name is unknown.
        """
        check_weights(names, weights)
        self._names, self._weights, self._dynamic = list(names), dict(weights), dynamic
        self.credits = dict.fromkeys(names, 0.0)

    def shares(self, progress: float) -> dict[str, float]:
        """What part each source has at a share of the stage; the parts sum to 1."""
        factors = self._dynamic.factors if self._dynamic else {}
        raw = {
            name: weight_at(self._weights[name], progress) * factors.get(name, 1.0)
            for name in self._names
            if name in self._weights
        }
        total = sum(raw.values())
        if not total:  # a gap between the points of all of them
            raw, total = dict.fromkeys(raw, 1.0), float(len(raw))
        return {name: value / total for name, value in raw.items()}

    def choose(self, progress: float) -> str:
        """The source of the next window."""
        shares = self.shares(progress)
        for name, share in shares.items():
            self.credits[name] += share
        chosen = max(shares, key=lambda name: self.credits[name])
        self.credits[chosen] -= 1.0
        return chosen


def weight_at(weight: Weight, progress: float) -> float:
    """A weight at a share of the stage."""
    if isinstance(weight, int | float):
        return float(weight)
    points = [(float(at), float(value)) for at, value in weight]
    if progress <= points[0][0]:
        return points[0][1]
    for (start, low), (end, high) in pairwise(points):
        if progress < end:
            return low + (high - low) * (progress - start) / (end - start)
    return points[-1][1]


def check_weights(names: Sequence[str], weights: Mapping[str, Weight]) -> None:
    """Refuse weights that make no mix.

    Raises:
        ConfigError: See `Mixture`.
    """
    for name, weight in weights.items():
        if name not in names:
            raise ConfigError(f"weights name {name}, which is no source", f"known: {list(names)}")
        values = _values(weight)
        if values is None or not all(math.isfinite(v) and v >= 0 for v in values):
            raise ConfigError(
                f"the weight of {name} is {weight!r}",
                "write a number, or points with rising shares: [[0, 1.0], [1, 3.0]]",
            )
    if not any(any(_values(weight) or ()) for weight in weights.values()):
        raise ConfigError("no source has a weight", "give at least one a weight above 0")


def _values(weight: Any) -> list[float] | None:
    if isinstance(weight, int | float) and not isinstance(weight, bool):
        return [float(weight)]
    try:
        places = [float(place) for place, _ in weight]
        values = [float(value) for _, value in weight]
    except (TypeError, ValueError):
        return None
    rising = all(a < b for a, b in pairwise(places))
    return values if places and rising and places[0] >= 0 and places[-1] <= 1 else None
