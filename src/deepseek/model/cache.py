"""Keys and values of the tokens already read. The cache is an argument, never a global.

A cache also decides what new tokens attend to, so that one model serves a single sequence,
a batch of sequences that share a beginning, and later memory nodes and pages.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deepseek.model.config import ModelConfig
from deepseek.ops.attention import attention

GROWTH = 1_024  # positions; a multiple keeps reallocation rare without over-reserving


@runtime_checkable
class KVCache(Protocol):
    """What attention needs of a cache."""

    def positions(self, n_tokens: int) -> Int[Tensor, " T"]:
        """Where the next `n_tokens` stand in their sequences."""
        ...

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G T K"],
        v: Float[Tensor, "B G T K"],
    ) -> Float[Tensor, "B H T K"]:
        """Take T new positions of one layer in, and attend from them to all they may see."""
        ...

    def advance(self, n_tokens: int) -> None:
        """Count the new positions once every layer has appended them."""
        ...


class DenseCache:
    """Every position at full precision in one growing tensor a layer."""

    def __init__(
        self, config: ModelConfig, *, dtype: torch.dtype, device: torch.device, batch: int = 1
    ) -> None:
        self._shape = (batch, config.n_kv_heads, config.d_head)
        self._dtype, self._device = dtype, device
        self._layers: list[tuple[Tensor, Tensor] | None] = [None] * config.n_layers
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens whose keys and values all layers have."""
        return self._length

    @property
    def n_bytes(self) -> int:
        """Bytes reserved."""
        return sum(2 * pair[0].nbytes for pair in self._layers if pair is not None)

    def positions(self, n_tokens: int) -> Int[Tensor, " T"]:
        """The places after what is there."""
        return torch.arange(self._length, self._length + n_tokens, device=self._device)

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G T K"],
        v: Float[Tensor, "B G T K"],
    ) -> Float[Tensor, "B H T K"]:
        """Causal attention to everything so far."""
        return attention(q, *self.append(layer, k, v))

    def read(self, layer: int) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """Keys and values of one layer; a cache must have read something first."""
        pair = self._layers[layer]
        assert pair is not None
        return pair[0][:, :, : self._length], pair[1][:, :, : self._length]

    def append(
        self, layer: int, k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """Store T new positions of one layer and return all of them."""
        end = self._length + k.shape[2]
        keys, values = self._reserved(layer, end)
        keys[:, :, self._length : end] = k
        values[:, :, self._length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, n_tokens: int) -> None:
        """Count the new positions once every layer has appended them."""
        self._length += n_tokens

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` tokens.

        Raises:
            ValueError: The cache is shorter than that.
        """
        if not 0 <= length <= self._length:
            raise ValueError(f"cannot truncate a cache of {self._length} tokens to {length}")
        self._length = length

    def _reserved(self, layer: int, end: int) -> tuple[Tensor, Tensor]:
        pair = self._layers[layer]
        if pair is not None and pair[0].shape[2] >= end:
            return pair
        batch, n_heads, width = self._shape
        # Grow by half at least, so that a long decode copies each position a bounded number of
        # times, and by layer, so that old and new copy never exist for the whole cache at once.
        reserved = max(end, self._length + self._length // 2)
        reserved = -(-reserved // GROWTH) * GROWTH
        shape = (2, batch, n_heads, reserved, width)
        fresh = torch.empty(shape, dtype=self._dtype, device=self._device)
        if pair is not None:
            fresh[0, :, :, : self._length] = pair[0][:, :, : self._length]
            fresh[1, :, :, : self._length] = pair[1][:, :, : self._length]
        self._layers[layer] = (fresh[0], fresh[1])
        return fresh[0], fresh[1]
