"""Keys and values of the tokens already read. The cache is an argument, never a global.

A cache also decides what new tokens attend to, so that one model serves a single sequence,
a batch of sequences that share a beginning, and later memory nodes and pages.
"""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from deepseek.model.config import ModelConfig
from deepseek.model.context_file import check_numbers
from deepseek.ops.attention import attention
from deepseek.ops.hierarchical import PAGE

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

    @property
    def tables(self) -> "tuple[DensePages, ...]":
        """The first sequence in pages, for saved contexts."""
        return (DensePages(self),)

    def page(self, place: int) -> Tensor:
        """Keys and values of one page of the first sequence. [2 L, G, P, K]"""
        part = slice(place * PAGE, (place + 1) * PAGE)
        pairs = [self.read(layer) for layer in range(len(self._layers))]
        return torch.stack([t[0, :, part] for pair in pairs for t in pair])

    def append_page(self, page: Tensor) -> None:
        """Add a page that `page` gave."""
        for layer, pair in enumerate(torch.unflatten(page, 0, (-1, 2)).unbind()):
            self.append(layer, *pair[:, None])
        self.advance(PAGE)

    @property
    def page_shape(self) -> tuple[int, ...]:
        """Of what `page` gives."""
        _, n_heads, width = self._shape
        return 2 * len(self._layers), n_heads, PAGE, width

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self._dtype

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


class DensePages:
    """A dense cache as pages that a saved context takes and gives."""

    name = "keys and values"
    covered = PAGE

    def __init__(self, cache: DenseCache) -> None:
        self._cache = cache

    @property
    def layout(self) -> str:
        """Number format and order."""
        return f"{str(self._cache.dtype).removeprefix('torch.')} rows"

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return math.prod(self._cache.page_shape) * self._cache.dtype.itemsize

    def places(self, n_positions: int) -> Sequence[int]:
        """Where pages stand that are saved of the first positions: all."""
        return range(-(-n_positions // PAGE))

    def read(self, place: int, n_positions: int) -> UInt8[Tensor, " N"]:
        """What the page at a place holds; only whole pages are asked for."""
        assert (place + 1) * PAGE <= n_positions
        return self._cache.page(place).cpu().view(-1).view(torch.uint8)

    def put(self, place: int, content: UInt8[Tensor, " N"]) -> None:
        """Add a page that `read` gave, behind all others.

        Raises:
            ContextError: It holds what no model computes.
        """
        assert place * PAGE == self._cache.length
        page = content.view(self._cache.dtype).view(self._cache.page_shape)
        check_numbers(page)
        self._cache.append_page(page)
