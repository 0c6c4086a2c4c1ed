"""Hierarchical attention as a cache: it decides what new tokens see of a long sequence."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.model.cache import DenseCache
from deepseek.model.config import ModelConfig
from deepseek.ops.attention import attention
from deepseek.ops.hierarchical import (
    NEVER,
    PAGE,
    UNTRAINED,
    Carried,
    Hierarchy,
    Recalled,
    Router,
    Turns,
    attend_page,
)

AttentionMode = Literal["auto", "dense", "hierarchical"]
DENSE = 8_192
"""Up to here everything is seen: attention is a small part of the work."""


def choose_hierarchy(
    config: ModelConfig, context_window: int, mode: AttentionMode = "auto", recall: int = 2_048
) -> Hierarchy | None:
    """What sequences of a window see; None: everything.

    Args:
        config: Of the model.
        context_window: Tokens that are wanted.
        mode: `auto` is dense in the trained window and hierarchical beyond, `hierarchical`
            already from `DENSE` on.
        recall: Tokens that each group of heads recalls.

    Raises:
        ConfigError: Dense attention cannot go that far.
    """
    trained = config.context_window
    is_beyond = context_window > trained
    if mode == "dense" and is_beyond:
        raise ConfigError(
            f"dense attention to {context_window:,} tokens, where the weights were trained "
            f"for {trained:,}",
            "use hierarchical attention, or a smaller context window",
        )
    if mode == "dense" or (mode == "auto" and not is_beyond):
        return None
    # Far positions are trained least: what lies beyond is read better from half as far.
    reach = max(PAGE, trained // 2) if is_beyond else trained
    return Hierarchy(recall=recall, dense=min(DENSE, reach), reach=reach)


class HierarchicalCache(DenseCache):
    """Keys and values of one sequence with memory nodes, through torch, on any device."""

    def __init__(
        self,
        config: ModelConfig,
        hierarchy: Hierarchy,
        *,
        dtype: torch.dtype,
        device: torch.device,
        router: Router = UNTRAINED,
    ) -> None:
        super().__init__(config, dtype=dtype, device=device)
        self.hierarchy, self.router = hierarchy, router
        self._turns = Turns(theta=config.rope_theta)
        none = torch.empty(config.n_kv_heads, 0, config.d_head, dtype=dtype, device=device)
        self._nodes = [router.remember(layer, none, 0) for layer in range(config.n_layers)]
        self._before: dict[int, Carried] = {}  # of the layer before, by a page's first query
        self.asks_from = NEVER
        """The position from which tokens choose alone and by keys; of all before, four together."""
        self.recalled: list[Recalled | None] = [None] * config.n_layers
        """What the last queries of the last pass chose in each layer."""

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G T K"],
        v: Float[Tensor, "B G T K"],
    ) -> Float[Tensor, "B H T K"]:
        """From each new position to its window, the sinks, and what it recalls."""
        assert len(q) == 1, "one sequence"
        keys, values = self.append(layer, k, v)
        self._remember(layer, keys[0])
        self.recalled[layer] = None
        if layer == 0:
            self._before.clear()
        n_tokens, length = q.shape[2], self.length
        n_dense = min(n_tokens, max(0, self.hierarchy.n_dense - length))
        mixed, at = [], n_dense
        if n_dense:
            end = length + n_dense
            mixed.append(attention(q[:, :, :n_dense], keys[:, :, :end], values[:, :, :end]))
        while at < n_tokens:
            end = min(n_tokens, ((length + at) // PAGE + 1) * PAGE - length)
            asks = length + at >= self.asks_from
            if not asks:
                end = min(end, self.asks_from - length)
            part = q[0, :, at:end]
            mixed.append(self._attend_page(layer, at, part, keys[0], values[0], asks)[None])
            at = end
        return torch.cat(mixed, 2)

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` tokens."""
        super().truncate(length)
        self._nodes = [nodes[:, : length // PAGE] for nodes in self._nodes]

    @property
    def n_bytes(self) -> int:
        """Bytes reserved."""
        return super().n_bytes + self.node_bytes

    @property
    def node_bytes(self) -> int:
        """Those of memory nodes."""
        return sum(nodes.nbytes for nodes in self._nodes)

    def _attend_page(
        self, layer: int, at: int, q: Tensor, keys: Tensor, values: Tensor, asks: bool
    ) -> Float[Tensor, "H T K"]:
        end = self.length + at + q.shape[1]
        mixed, recalled = attend_page(
            q,
            keys[:, :end],
            values[:, :end],
            self._nodes[layer],
            self.hierarchy,
            self._turns,
            asks=asks,
            before=self._before.get(at),
            router=self.router,
            layer=layer,
        )
        if recalled is not None:
            self._before[at] = recalled.carried
        self.recalled[layer] = recalled
        return mixed

    def _remember(self, layer: int, keys: Tensor) -> None:
        """Add the memory nodes of pages that are complete now."""
        nodes = self._nodes[layer]
        first, last = nodes.shape[1], keys.shape[1] // PAGE
        if last > first:
            fresh = self.router.remember(layer, keys[:, first * PAGE : last * PAGE], first)
            self._nodes[layer] = torch.cat((nodes, fresh), 1)
