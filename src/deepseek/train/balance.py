"""Mixtures of experts in training, known by what they can do and not by their class."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from deepseek.model.moe.load import figures


@runtime_checkable
class Balanced(Protocol):
    """A module that shares tokens out to experts and wants to be kept in balance."""

    @property
    def sizes(self) -> Sequence[int]:
        """Of all experts."""
        ...

    @property
    def n_slots(self) -> int:
        """Experts that a token may have."""
        ...

    def auxiliary_loss(self) -> Tensor | None:
        """What the last pass adds to the loss, a mean over its tokens."""
        ...

    def take_counts(self) -> Tensor:
        """Tokens of each expert since the last call; slots left empty may come behind them."""
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

    def report(self, counts: Sequence[Tensor]) -> dict[str, Any] | None:
        """What counts say: figures of loads, means of layers and the worst, experts of a token by
        layer, and what they compute as a share of what all slots would. None without experts."""
        found = [
            _of_layer(module, own.cpu())
            for module, own in zip(self.modules, counts, strict=True)
            if int(own.sum())
        ]
        if not found:
            return None
        table = {name: [layer[name] for layer in found] for name in found[0]}
        return {
            "u_busy": fmean(table["u_busy"]),
            "u_busy_worst": min(table["u_busy"]),
            "u_entropy": fmean(table["u_entropy"]),
            "max_vio": max(table["max_vio"]),
            "dead": sum(table["dead"]),
            "per_token": fmean(table["per_token"]),
            "per_token_by_layer": table["per_token"],
            "work": fmean(table["work"]),
        }

    def update(self, counts: list[Tensor], rate: float) -> None:
        """Move each module towards balance."""
        for module, own in zip(self.modules, counts, strict=True):
            module.update_balance(own, rate)


def _of_layer(module: Balanced, counts: Tensor) -> dict[str, float]:
    n, sizes = len(module.sizes), counts.new_tensor(module.sizes)
    loads, slots = counts[:n], float(counts.sum())
    found = figures(loads)
    mean_size = float(sizes.double().mean())
    return {
        "u_busy": found.u_busy,
        "u_entropy": found.u_entropy,
        "max_vio": found.max_vio,
        "dead": round(found.dead * n),
        "per_token": module.n_slots * float(loads.sum()) / slots,
        "work": float((loads * sizes).sum()) / (slots * mean_size),
    }
