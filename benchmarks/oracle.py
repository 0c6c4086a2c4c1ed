"""The best choice of pages there is: what hierarchical attention could keep at the same budget.

For each block of queries and each group of heads the pages are recalled that get most of the true
attention, by the sum of the shares of all the block's queries. No router can know these without
looking at all keys; the product has one that looks at memory nodes. Sinks, window, budget and
blocks are the product's, through torch.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deepseek.engine.torch_runner import TorchRunner
from deepseek.model.hierarchical import HierarchicalCache
from deepseek.model.transformer import Transformer
from deepseek.ops.attention import attention
from deepseek.ops.hierarchical import PAGE, TOGETHER, Hierarchy


def attend_best(
    q: Float[Tensor, "H T K"],
    keys: Float[Tensor, "G S K"],
    values: Float[Tensor, "G S K"],
    hierarchy: Hierarchy,
    *,
    together: int,
) -> Float[Tensor, "H T K"]:
    """Attention of queries that stand in one page, to their window, the sinks and the best pages.

    Args:
        q: Rotated queries of the last T positions, all in the last page.
        keys: Rotated keys of all positions so far.
        values: Their values.
        hierarchy: What is seen; its memory nodes and votes have no part in it.
        together: Queries that choose together: those of positions with the same quotient.

    Raises:
        ValueError: The page is beyond the reach, where pages would be moved.
    """
    n_groups, n_keys, width = keys.shape
    n_tokens, page = q.shape[1], (n_keys - 1) // PAGE
    if hierarchy.is_beyond(page):
        raise ValueError("the oracle is for positions that the weights reach")
    start, sinks = hierarchy.window_start(page), hierarchy.sinks_end(page)
    n_chosen = min(hierarchy.recall // PAGE, start - sinks)
    if n_chosen == start - sinks:  # everything
        return attention(q[None], keys[None], values[None])[0]
    own = torch.arange(n_keys - n_tokens, n_keys, device=q.device)
    is_behind = torch.arange(start * PAGE, n_keys, device=q.device) > own[:, None]  # [T, window]
    block = own // together - own[0] // together
    groups = torch.unflatten(q / math.sqrt(width), 0, (n_groups, -1))
    mixed = [
        _attend_group(rows, keys[g], values[g], (sinks, start, n_chosen), is_behind, block)
        for g, rows in enumerate(groups)
    ]
    return torch.cat(mixed)


def _attend_group(
    rows: Float[Tensor, "R T K"],
    keys: Float[Tensor, "S K"],
    values: Float[Tensor, "S K"],
    pages: tuple[int, int, int],
    is_behind: Bool[Tensor, "T W"],
    block: Int[Tensor, " T"],
) -> Float[Tensor, "R T K"]:
    """Of one group of heads; in place where it can be, for there are millions of scores."""
    sinks, start, n_chosen = pages
    weights = rows @ keys.T
    weights = weights if weights.dtype == torch.float64 else weights.float()
    weights[..., start * PAGE :].masked_fill_(is_behind, -math.inf)
    weights.sub_(weights.amax(-1, keepdim=True)).exp_()
    total = weights.sum(-1)
    between = torch.unflatten(weights[..., sinks * PAGE : start * PAGE], -1, (-1, PAGE))
    mass = (between.sum(-1) / total[..., None]).sum(0)  # [T, N]
    votes = mass.new_zeros(int(block[-1]) + 1, mass.shape[-1]).index_add(0, block, mass)
    best = votes.topk(n_chosen, -1).indices
    between.mul_(torch.zeros_like(votes).scatter_(-1, best, 1.0)[block][..., None])
    total = weights.sum(-1, keepdim=True)
    return (weights.to(values.dtype) @ values) / total.to(values.dtype)


class OracleCache(HierarchicalCache):
    """A cache from which the best pages are recalled."""

    def _attend_page(
        self, layer: int, at: int, q: Tensor, keys: Tensor, values: Tensor, asks: bool
    ) -> Tensor:
        end = self.length + at + q.shape[1]
        together = 1 if asks else TOGETHER
        return attend_best(q, keys[:, :end], values[:, :end], self.hierarchy, together=together)


class OracleRunner(TorchRunner):
    """A model that sees by the oracle's choice."""

    def __init__(
        self, model: Transformer, *, dtype: torch.dtype, device: torch.device, hierarchy: Hierarchy
    ) -> None:
        super().__init__(model, dtype=dtype, device=device, hierarchy=hierarchy)
        self._cache = OracleCache(model.config, hierarchy, dtype=dtype, device=device)
