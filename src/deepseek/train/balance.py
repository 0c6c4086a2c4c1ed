"""Mixtures of experts in training, known by what they can do and not by their class."""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Balanced(Protocol):
    """A module that shares tokens out to experts and wants to be kept in balance."""

    def auxiliary_loss(self) -> Tensor | None:
        """What the last pass adds to the loss, a mean over its tokens."""
        ...

    def take_counts(self) -> Tensor:
        """Tokens of each expert since the last call."""
        ...

    def update_balance(self, counts: Tensor, rate: float) -> None:
        """Move towards balance after a step."""
        ...


class Balance:
    """All such modules of a model, and their counts in the passes of a step."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = [m for m in model.modules() if isinstance(m, Balanced)]
        self._counts: list[Tensor] = []

    def auxiliary_loss(self) -> Tensor | None:
        """The sum of what the modules add, if any does."""
        losses = [loss for m in self.modules if (loss := m.auxiliary_loss()) is not None]
        return sum(losses[1:], losses[0]) if losses else None

    def collect(self) -> None:
        """Add the counts of a pass that has just gone forward."""
        counts = [module.take_counts() for module in self.modules]
        if self._counts:
            counts = [a + b for a, b in zip(self._counts, counts, strict=True)]
        self._counts = counts

    def drop(self) -> None:
        """Forget what the modules counted since: a pass that was computed again."""
        for module in self.modules:
            module.take_counts()

    def take(self) -> list[Tensor]:
        """The counts of all passes since the last call."""
        counts, self._counts = self._counts, []
        return counts

    def update(self, counts: list[Tensor], rate: float) -> None:
        """Move each module towards balance."""
        for module, own in zip(self.modules, counts, strict=True):
            module.update_balance(own, rate)
