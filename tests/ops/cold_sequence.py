"""A sequence in a random decoder that has a cold tier."""

from collections.abc import Sequence

import torch
from random_decoder import Cache, Decoder
from torch import Tensor

from deepseek.ops.cold import ColdTier
from deepseek.ops.hierarchical import GROUP, NEVER, PAGE, Hierarchy
from deepseek.ops.native_model import NewTokens
from deepseek.ops.page_file import PageFile


class Sequential:
    """One sequence in a decoder with a cold tier; pages that are not needed are not there."""

    def __init__(
        self,
        decoder: Decoder,
        tier: ColdTier,
        hierarchy: Hierarchy | None,
        n_tokens: int,
        file: PageFile | None = None,
    ) -> None:
        n_pages = -(-n_tokens // PAGE)
        self._native, self._tier = decoder.native, tier
        self.cache = Cache(decoder.shape, n_pages + 1, tier.bits)
        self._native.set_cache(self.cache.pages)
        self._native.set_memory(self.cache.memory)
        self._native.set_cold(self.cache.cold if file is None else file, tier)
        if hierarchy is not None:
            self._native.set_hierarchy(hierarchy)
        self._memory = list(range(1 + n_pages // GROUP)) if hierarchy is not None else []
        self.pages = list(range(n_pages, 0, -1))
        generator = torch.Generator().manual_seed(n_pages)
        self.cold = torch.randperm(n_pages, generator=generator).tolist()
        self.length, self.asks_from = 0, NEVER

    def new(self, n_tokens: int) -> NewTokens:
        """What a pass is told of the next tokens."""
        start = self._tier.window_start(self.length // PAGE)
        sinks = self._tier.sinks // PAGE
        pages = [-1 if sinks <= i < start else page for i, page in enumerate(self.pages)]
        n_cold = (self.length + n_tokens) // PAGE
        return NewTokens(
            count=n_tokens,
            length=self.length,
            pages=pages,
            memory=self._memory,
            cold=self.cold[:n_cold],
            asks_from=self.asks_from,
        )

    def read(self, x: Tensor) -> Tensor:
        """Append tokens."""
        new = self.new(len(x))
        self.length += len(x)
        return self._native.forward([new], embeddings=x.clone())


def read_all(sequence: Sequential, x: Tensor, sizes: Sequence[int]) -> Tensor:
    return torch.cat([sequence.read(part) for part in x.split(list(sizes))])
