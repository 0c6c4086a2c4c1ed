"""Fewer experts for one request: slots are filled where experts score best, up to a share.

A slot's margin is its expert's biased score, less that of the expert that does nothing if there is
one. A slot stays empty whose margin is not above a level: the quantile of the layer's last margins
that leaves the wanted share, moved by what was used too much or too little so far. So the share is
held over a request, and tokens that need experts more have more of them.

A level follows from earlier tokens of the same request alone: neither how a text is cut into passes
nor what runs beside it changes a bit.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from deepseek.core.errors import RequestError
from deepseek.core.llm import ExpertsUsed
from deepseek.model.moe.config import MoEConfig

REMEMBERED = 512
"""Margins of a layer that its level is a quantile of: those of the last few hundred tokens."""
GAIN = 0.05
"""By how much of all margins the quantile moves for each slot that was used too much."""
EMPTY = float("-inf")


class _Layer:
    """What one layer's level follows from, by position, so that it can be cut back."""

    def __init__(self, n_slots: int) -> None:
        self.n_slots = n_slots
        self.margins = array("f")
        """Of all slots of all tokens."""
        self.filled = array("H")
        """Slots of each token that were kept."""
        self._recall()

    def _recall(self) -> None:
        """Make from the past what is kept of it."""
        there = [m for m in self.margins if m != EMPTY]
        self.n_wanted, self.n_used = len(there), sum(self.filled)
        self._last = there[-REMEMBERED:]
        self._place = 0
        """Of the oldest of the last ones."""
        self._sorted = sorted(self._last)

    def truncate(self, n_tokens: int) -> None:
        """Forget what came after some tokens."""
        if n_tokens < len(self.filled):
            del self.margins[n_tokens * self.n_slots :], self.filled[n_tokens:]
            self._recall()

    def level(self, share: float) -> float:
        """What the margins of the next token must be above."""
        debt = self.n_used - share * self.n_wanted
        place = (1 - share + GAIN * debt) * len(self._sorted)
        if place < 1:
            return EMPTY
        if place > len(self._sorted):
            return float("inf")
        return self._sorted[int(place) - 1]

    def take(self, margins: Sequence[float], share: float, least: int) -> int:
        """Slots of a token that are filled; the best come first, and `least` always are."""
        there = [m for m in margins if m != EMPTY]
        if share >= 1:
            n_filled = len(there)
        else:
            level = self.level(share)
            n_filled = sum(m > level for m in there)
            n_filled = max(n_filled, min(least, len(there)))
        self.margins.extend(margins)
        self.filled.append(n_filled)
        self.n_wanted += len(there)
        self.n_used += n_filled
        for margin in islice(self.margins, len(self.margins) - self.n_slots, None):
            if margin != EMPTY:
                self._remember(margin)
        return n_filled

    def _remember(self, margin: float) -> None:
        if len(self._last) < REMEMBERED:
            self._last.append(margin)
        else:
            oldest = self._last[self._place]
            del self._sorted[bisect_left(self._sorted, oldest)]
            self._last[self._place] = margin
            self._place = (self._place + 1) % REMEMBERED
        insort(self._sorted, margin)


class ExpertBudget:
    """One sequence's: what it has used, and what it may use next."""

    def __init__(self, moe: MoEConfig, n_layers: int, share: float) -> None:
        """Begin with an empty sequence.

        Args:
            moe: Of the model; `check_expert_budget` has taken it.
            n_layers: That have experts.
            share: Of the experts that the model would choose; 1: all, only counted.
        """
        self.share = share
        self._least = 0 if has_dense_part(moe) else 1
        self._layers = [_Layer(moe.n_active_experts) for _ in range(n_layers)]

    def keep(self, layer: int, margins: Float[Tensor, "T K"]) -> Bool[Tensor, "T K"]:
        """Which slots of the next tokens are filled, in one layer."""
        own = self._layers[layer]
        rows = margins.double().tolist()
        counts = torch.tensor([own.take(row, self.share, self._least) for row in rows])
        places = torch.arange(margins.shape[1])
        return (places < counts[:, None]).to(margins.device)

    def truncate(self, n_tokens: int) -> None:
        """Forget what came after some tokens."""
        for layer in self._layers:
            layer.truncate(n_tokens)

    def fork(self) -> "ExpertBudget":
        """The same past for another sequence."""
        other = object.__new__(ExpertBudget)
        other.share, other._least = self.share, self._least
        other._layers = []
        for layer in self._layers:
            copy = _Layer(layer.n_slots)
            copy.margins, copy.filled = layer.margins[:], layer.filled[:]
            copy._recall()
            other._layers.append(copy)
        return other

    def used(self) -> ExpertsUsed:
        """What it came to."""
        n_tokens = len(self._layers[0].filled)
        sums = [0] * n_tokens
        for layer in self._layers:
            for place, n in enumerate(layer.filled):
                sums[place] += n
        n_layers = len(self._layers)
        return ExpertsUsed(
            share=self.share,
            slots=self._layers[0].n_slots,
            by_layer=tuple(layer.n_used / max(1, n_tokens) for layer in self._layers),
            by_token=tuple(n / n_layers for n in sums),
        )


@dataclass(frozen=True, slots=True)
class Budgets:
    """Of the sequences whose new tokens stand behind each other in a pass."""

    runs: Sequence[tuple[ExpertBudget | None, int]]
    """Each with its number of tokens; None: as the model chooses."""
    layer: int = 0

    def of(self, layer: int) -> "Budgets":
        """For one layer."""
        return Budgets(self.runs, layer)

    @property
    def is_whole(self) -> bool:
        """Whether all have what the model chooses, and it is only counted."""
        return all(one is None or one.share >= 1 for one, _ in self.runs)

    def note(self, is_filled: Bool[Tensor, "T K"]) -> None:
        """Count what was chosen, where `is_whole`."""
        self.keep(torch.zeros(is_filled.shape).masked_fill(~is_filled.cpu(), EMPTY))

    def keep(self, margins: Float[Tensor, "T K"]) -> Bool[Tensor, "T K"]:
        """Which slots are filled, of those that the gate filled."""
        kept = [
            torch.ones_like(own, dtype=torch.bool) if one is None else one.keep(self.layer, own)
            for (one, _), own in zip(
                self.runs, torch.split(margins, [n for _, n in self.runs]), strict=True
            )
        ]
        return torch.cat(kept)


def has_dense_part(moe: MoEConfig) -> bool:
    """Whether something computes for a token that has no expert."""
    return moe.form == "low_rank" or moe.shared > 0


def check_expert_budget(moe: MoEConfig | None, share: float) -> None:
    """Refuse a share of experts that a model cannot keep to.

    Raises:
        RequestError: It has no experts, its slots cannot stay empty, or they would all be.
    """
    if moe is None:
        raise RequestError(
            "the model has no experts to save", "leave expert_budget out, or name a mixture"
        )
    if moe.parts != 1 or moe.routing != "learned" or not moe.n_active_experts:
        raise RequestError(
            "this mixture's slots cannot stay empty: experts are parts of a layer, or not chosen "
            "by a gate",
            "leave expert_budget out",
        )
    least = 0.0 if has_dense_part(moe) else 1 / moe.n_active_experts
    if share < least:
        raise RequestError(
            f"expert_budget is {share}, and a token keeps one of {moe.n_active_experts} experts: "
            "nothing else computes for it",
            f"use {least:.2f} or more",
        )
