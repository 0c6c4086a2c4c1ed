"""Experts that several ranks share: tokens go to the ranks that have their experts, and back.

Each rank has the experts of one run of numbers, and tokens of its own. What comes back is weighted
at home, so that it does not matter who computed it: the result is that of one rank that has all.

Axes: T tokens of this rank, D width, E experts of all ranks, K slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from deepseek.ops.moe.gate import Choice
from deepseek.ops.moe.neurons import Matrices, Product, neurons_sorted


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """Who has which experts."""

    group: "dist.ProcessGroup"
    bounds: tuple[int, ...]
    """The first expert of each rank of the group, and the one after the last."""
    rank: int
    """This process's place in the group."""

    @property
    def own(self) -> slice:
        """The experts that are here."""
        return slice(self.bounds[self.rank], self.bounds[self.rank + 1])

    def per_rank(self, counts: Int[Tensor, " E"]) -> list[int]:
        """Sums of numbers of experts by the ranks that have them."""
        return [int(counts[first:end].sum()) for first, end in pairwise(self.bounds)]


def shared_out(sizes: Sequence[int], n_ranks: int) -> tuple[int, ...]:
    """Bounds of runs of experts, one a rank, about equal in size and none empty.

    Args:
        sizes: Of the experts, at least as many as ranks.
        n_ranks: That share them.
    """
    ends, total, bounds = list(accumulate(sizes)), sum(sizes), [0]
    for rank in range(1, n_ranks):
        goal = total * rank / n_ranks
        places = range(bounds[-1] + 1, len(sizes) - (n_ranks - rank) + 1)
        bounds.append(min(places, key=lambda place: abs(ends[place - 1] - goal)))
    return (*bounds, len(sizes))


def neurons_exchanged(
    x: Float[Tensor, "T D"],
    choice: Choice,
    widths: Sequence[int],
    matrices: Matrices,
    exchange: Exchange,
    product: Product = F.linear,
) -> Float[Tensor, "T D"]:
    """What all chosen experts say, times their weights, wherever they are.

    Every rank of the group must call it equally often, whether its experts have tokens or not.

    Args:
        x: This rank's tokens.
        choice: Among the experts of all ranks.
        widths: Of the experts of all ranks.
        matrices: Of this rank's experts.
        exchange: Who has which.
        product: How to multiply.
    """
    (n_tokens, n_slots), n_ranks = choice.experts.shape, len(exchange.bounds) - 1
    experts = choice.experts.flatten()
    counts = experts.bincount(minlength=len(widths) + 1)[:-1]
    # In the order of experts, and so in that of the ranks that have them.
    order = experts.argsort(stable=True)[: int(counts.sum())]
    own = widths[exchange.own]
    told = _exchange_counts(counts, exchange).view(n_ranks, len(own))
    sent, received = exchange.per_rank(counts), told.sum(1).tolist()
    rows = x.index_select(0, order // max(1, n_slots))
    arrived = _all_to_all(rows, sent, received, exchange)
    numbers = torch.arange(len(own), device=x.device).repeat(n_ranks)
    local = numbers.repeat_interleave(told.flatten())[:, None]
    ones = torch.ones(local.shape, dtype=choice.weights.dtype, device=x.device)
    said = neurons_sorted(arrived, Choice(local, ones), own, matrices, product)
    if not len(arrived):  # gradients of 0 and not none: ranks that have copies wait for them
        said = said + sum(matrix[:0].sum() for matrix in matrices)
    back = _all_to_all(said.to(x.dtype), received, sent, exchange)
    slots = x.new_zeros(n_tokens * n_slots, x.shape[1]).index_copy(0, order, back)
    weights = choice.weights.to(x.dtype)[:, None]
    # FSDP hangs its hooks on what a module returns, and a view may lose them.
    return torch.bmm(weights, slots.view(n_tokens, n_slots, x.shape[1]))[:, 0].clone()


@torch.no_grad()
def _exchange_counts(counts: Int[Tensor, " E"], exchange: Exchange) -> Int[Tensor, " N"]:
    """How many tokens come to this rank's experts, rank by rank."""
    n_own, n_ranks = exchange.own.stop - exchange.own.start, len(exchange.bounds) - 1
    sizes = [end - first for first, end in pairwise(exchange.bounds)]
    found = counts.new_empty(n_own * n_ranks)
    dist.all_to_all_single(found, counts.contiguous(), [n_own] * n_ranks, sizes, exchange.group)
    return found


def _all_to_all(rows: Tensor, sent: list[int], received: list[int], exchange: Exchange) -> Tensor:
    """Rows to other ranks, so many to each, and so many from each."""
    args = rows, sent, received, exchange.group
    found: Tensor = _AllToAll.apply(*args)  # type: ignore[no-untyped-call]
    return found


class _AllToAll(torch.autograd.Function):
    """Gradients go the way back."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: "dist.ProcessGroup"
    ) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _moved(rows, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        back = _moved(gradients[0], ctx.received, ctx.sent, ctx.group)
        return back, None, None, None


def _moved(
    rows: Tensor, sent: list[int], received: list[int], group: "dist.ProcessGroup"
) -> Tensor:
    found = rows.new_empty(sum(received), rows.shape[1])
    dist.all_to_all_single(found, rows.contiguous(), received, sent, group)
    return found
