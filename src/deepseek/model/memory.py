"""Hierarchical attention that is trained from scratch: how memory is made, gated and fused.

A block's key and value are means over its positions, weighted by a softmax of learned scores.
Nodes and their scores go up from layer to layer through residuals with learned weights. All of it
begins at zero: a fresh module has plain means, open gates and no fusion.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from deepseek.model.config import ModelConfig
from deepseek.ops.memory import PARTS, Bank, memory_attention


class _Layer:
    """What one layer keeps of a sequence. Tensors are joined, never written to: gradients pass."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.still: Tensor | None = None
        """Unrotated keys from the first position that no node stands for."""
        self.bank: Bank | None = None
        self.scores: Tensor | None = None
        """Of the memory nodes, by the queries of the last pass."""


class MemoryCache:
    """Keys, values and memory nodes of sequences, for training and for decoding alike."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self._device = device
        self._layers = [_Layer() for _ in range(config.n_layers)]
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens that all layers have."""
        return self._length

    def positions(self, n_tokens: int) -> Int[Tensor, " T"]:
        """Where the next tokens stand."""
        return torch.arange(self._length, self._length + n_tokens, device=self._device)

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G T K"],
        v: Float[Tensor, "B G T K"],
    ) -> Float[Tensor, "B H T K"]:
        """Never called: a model with a memory attends through `Memory`."""
        raise TypeError("a MemoryCache is for models with attention = hierarchical")

    def advance(self, n_tokens: int) -> None:
        """Count the new positions once every layer has them."""
        self._length += n_tokens

    def layer(self, number: int) -> "tuple[_Layer, _Layer | None]":
        """What a layer keeps, and the layer below it."""
        return self._layers[number], self._layers[number - 1] if number else None


class Memory(nn.Module):
    """The learned parts of one layer's hierarchical attention."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.config = layer, config.memory
        groups, heads, width = config.n_kv_heads, config.n_heads, config.d_head
        node = config.memory.node
        self.salience = nn.Parameter(torch.zeros(2, groups, width))
        """What keys draw attention in their block's key, and in its value."""
        self.place = nn.Parameter(torch.zeros(2, groups, node))
        """The same by place in the block."""
        self.gate = nn.Parameter(torch.zeros(PARTS * heads, config.d_model))
        self.gate_bias = nn.Parameter(torch.zeros(PARTS * heads))
        if layer:
            self.fuse_nodes = nn.Parameter(torch.zeros(2, groups, 1))
            """Share of the nodes below that is added to keys, and to values."""
            self.fuse_scores = nn.Parameter(torch.zeros(heads))
            """Share of their scores that is added, for each head."""

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        q: tuple[Float[Tensor, "B H T K"], Float[Tensor, "B H T K"]],
        k: tuple[Float[Tensor, "B G T K"], Float[Tensor, "B G T K"]],
        v: Float[Tensor, "B G T K"],
        cache: MemoryCache,
    ) -> Float[Tensor, "B H T K"]:
        """Take new positions in, and attend from them.

        Args:
            x: Normalised hidden states, for the gates.
            q: Queries, rotated and before that.
            k: Keys, rotated and before that.
            v: Values.
            cache: Earlier positions, and the layer below.

        Raises:
            ValueError: An encoder, which sees what comes later, is given a text in parts.
        """
        own, below = cache.layer(self.layer)
        if self.config.encoder and own.keys is not None:
            raise ValueError("an encoder reads a text in one pass")
        own.keys = _joined(own.keys, k[0])
        own.values = _joined(own.values, v)
        own.bank, own.still = self._remember(own, k[1], below)
        gates = nn.functional.linear(x, self.gate, self.gate_bias)
        gates = torch.unflatten(gates, -1, (PARTS, -1)).permute(0, 3, 1, 2)
        more = None
        if below is not None:
            assert below.scores is not None
            more = self.fuse_scores[:, None, None] * below.scores
        mixed, own.scores = memory_attention(
            q[0], q[1], own.keys, own.values, own.bank, gates, self.config, more
        )
        return mixed

    def _remember(self, own: _Layer, k: Tensor, below: _Layer | None) -> tuple[Bank, Tensor]:
        """All nodes with those of blocks that are complete now, and the keys that are left."""
        assert own.values is not None
        still = _joined(own.still, k)
        node, waiting = self.config.node, still.shape[2]
        values = own.values[:, :, own.values.shape[2] - waiting :]
        sizes = [node] * (waiting // node)
        if self.config.encoder and waiting % node:
            sizes.append(waiting % node)  # all is there: the last block is as long as it is
        whole = sum(sizes)
        keys, fresh = self._pooled(still[:, :, :whole], values[:, :, :whole], sizes)
        n_known = 0 if own.bank is None else own.bank.counts.shape[0]
        if below is not None:
            assert below.bank is not None
            news = slice(n_known, n_known + len(sizes))
            keys = keys + self.fuse_nodes[0, :, None] * below.bank.keys[:, :, news]
            fresh = fresh + self.fuse_nodes[1, :, None] * below.bank.values[:, :, news]
        counts = keys.new_tensor(sizes)
        if own.bank is not None:
            keys = torch.cat((own.bank.keys, keys), 2)
            fresh = torch.cat((own.bank.values, fresh), 2)
            counts = torch.cat((own.bank.counts, counts))
        return Bank(keys, fresh, counts), still[:, :, whole:]

    def _pooled(self, keys: Tensor, values: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One key and one value for each block."""
        pooled_k, pooled_v = [keys[:, :, :0]], [values[:, :, :0]]
        parts = zip(*(torch.split(x, list(sizes), 2) for x in (keys, values)), strict=True)
        for k, v in parts:
            scores = torch.einsum("bgsk,igk->ibgs", k, self.salience)
            weights = (scores + self.place[:, None, :, : k.shape[2]]).softmax(-1)
            pooled_k.append(weights[0, :, :, None] @ k)
            pooled_v.append(weights[1, :, :, None] @ v)
        return torch.cat(pooled_k, 2), torch.cat(pooled_v, 2)


def _joined(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else torch.cat((old, new), 2)
