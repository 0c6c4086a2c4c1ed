"""How the learning rate runs over the steps of a stage or of a whole run."""

import math
from dataclasses import dataclass
from typing import Literal

from deepseek.core.errors import ConfigError

BALANCE_FIRST, BALANCE_LAST = 1e-2, 1e-3
BALANCE_SHARE = 0.95
"""Share of the steps in which the balance of experts still moves; then it rests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Linear warm-up, then a cosine, or level and a decline at the end (WSD), or level."""

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    warm_up: float = 0.05
    """Share of the steps in which the rate rises."""
    final: float = 0.0
    """The rate at the end, as a share of the highest. A curriculum wants it above 0, or the
    average of the last checkpoints: at the end, when data is best, little is learned otherwise."""
    decay: float = 0.2
    """With `wsd`: share of the steps in which the rate falls, at the end."""

    def __post_init__(self) -> None:
        shares = (self.warm_up, self.final, self.decay)
        if not all(0 <= share <= 1 for share in shares) or self.warm_up == 1:
            raise ConfigError(
                f"schedule.warm_up is {self.warm_up}, final {self.final}, decay {self.decay}",
                "they are shares, and warm_up is below 1",
            )
        if self.kind == "wsd" and self.warm_up + self.decay > 1:
            raise ConfigError("schedule.warm_up and decay overlap", "make them 1 together at most")

    def factor(self, step: int, n_steps: int) -> float:
        """What the highest rate is multiplied by in a step, counted from 0."""
        warm = round(self.warm_up * n_steps)
        if step < warm:
            return (step + 1) / warm
        if self.kind == "constant":
            return 1.0
        falling = n_steps - warm if self.kind == "cosine" else round(self.decay * n_steps)
        done = step - (n_steps - falling)
        if done < 0:
            return 1.0
        along = min(1.0, done / max(1, falling - 1))
        shape = 0.5 * (1 + math.cos(math.pi * along)) if self.kind == "cosine" else 1 - along
        return self.final + (1 - self.final) * shape


def balance_rate(step: int, n_steps: int) -> float:
    """How fast the balance of experts moves: a cosine from 1e-2 to 1e-3, then 0.

    It rests at the end so that the last weights are learned for the routes they will be used with.
    """
    last = BALANCE_SHARE * n_steps
    if step >= last:
        return 0.0
    shape = 0.5 * (1 + math.cos(math.pi * step / last))
    return BALANCE_LAST + (BALANCE_FIRST - BALANCE_LAST) * shape
