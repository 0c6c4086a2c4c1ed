"""The best choice of pages there is: what hierarchical attention could keep at the same budget.

For each block of queries and each group of heads the pages are recalled that get most of the true
attention, by the sum of the shares of all the block's queries. No router can know these without
looking at all keys; the product has one that looks at memory nodes. Sinks, window, budget and
blocks are the product's, through torch.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from deepseek.engine.torch_runner import TorchRunner
from deepseek.model.hierarchical import HierarchicalCache
from deepseek.model.transformer import Transformer
from deepseek.ops.attention import attention
from deepseek.ops.hierarchical import PAGE, Hierarchy


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
    rows = torch.unflatten(q, 0, (n_groups, -1))  # [G, R, T, K]
    scores = (rows.flatten(1, 2) @ keys.transpose(1, 2)).float() / math.sqrt(width)
    own = torch.arange(n_keys - n_tokens, n_keys, device=q.device)
    tail = torch.arange(start * PAGE, n_keys, device=q.device)
    scores = scores.view(n_groups, -1, n_tokens, n_keys)
    scores[..., start * PAGE :].masked_fill_(tail > own[:, None], -math.inf)
    shares = scores.softmax(-1)[..., sinks * PAGE : start * PAGE]
    mass = torch.unflatten(shares, -1, (-1, PAGE)).sum(-1).sum(1)  # [G, T, N]
    block = own // together - own[0] // together
    votes = mass.new_zeros(n_groups, int(block[-1]) + 1, mass.shape[-1])
    best = votes.index_add(1, block, mass).topk(n_chosen, -1).indices
    is_left = torch.ones_like(votes, dtype=torch.bool).scatter_(-1, best, False)
    between = torch.unflatten(scores[..., sinks * PAGE : start * PAGE], -1, (-1, PAGE))
    between.masked_fill_(is_left[:, block][:, None, ..., None], -math.inf)
    mixed = scores.softmax(-1).to(values.dtype).flatten(1, 2) @ values
    return torch.unflatten(mixed, 1, (-1, n_tokens)).flatten(0, 1)


class OracleCache(HierarchicalCache):
    """A cache from which the best pages are recalled."""

    def _attend_page(
        self, layer: int, at: int, q: Tensor, keys: Tensor, values: Tensor, together: int
    ) -> Tensor:
        end = self.length + at + q.shape[1]
        return attend_best(q, keys[:, :end], values[:, :end], self.hierarchy, together=together)


class OracleRunner(TorchRunner):
    """A model that sees by the oracle's choice."""

    def __init__(
        self, model: Transformer, *, dtype: torch.dtype, device: torch.device, hierarchy: Hierarchy
    ) -> None:
        super().__init__(model, dtype=dtype, device=device, hierarchy=hierarchy)
        self._cache = OracleCache(model.config, hierarchy, dtype=dtype, device=device)
