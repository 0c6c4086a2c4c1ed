"""Attention of a packed row in training: each piece of text sees itself alone.

Axes as in `ops.attention`; N tokens of all pieces behind each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.ops.attention import attention

STEP = 16
"""Widths of padded pieces are multiples of it: few different ones, and little padding."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Pieces of about one length."""

    n_pieces: int
    width: int

    @property
    def n_places(self) -> int:
        """Padded ones."""
        return self.n_pieces * self.width


class PackedCache:
    """A cache that keeps nothing and lets no piece of a row see another. It has gradients.

    Positions begin at 0 in each piece. Pieces of about one length are computed together, padded
    behind their ends, where nothing looks; so the work grows with the sum of squared lengths
    and not with the square of the sum.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu") -> None:
        """Lay out pieces of some lengths, each at least 1."""
        if not lengths or min(lengths) < 1:
            raise ConfigError("a packed row has an empty piece", "leave empty texts out")
        sizes = torch.tensor(list(lengths))
        starts = torch.cumsum(sizes, 0) - sizes
        self._positions = torch.cat([torch.arange(n) for n in lengths]).to(device)
        widths = torch.tensor([_width(n) for n in lengths])
        self._buckets: list[_Bucket] = []
        back = torch.empty(int(sizes.sum()), dtype=torch.int64)
        sources: list[Tensor] = []
        n_places = 0
        for width in sorted(set(widths.tolist())):
            members = (widths == width).nonzero()[:, 0]
            steps = torch.arange(width)
            is_real = steps < sizes[members, None]
            # Padding repeats a piece's first token: nothing sees it, and any value will do.
            source = starts[members, None] + steps * is_real
            places = n_places + torch.arange(source.numel()).view(source.shape)
            back[source[is_real]] = places[is_real]
            self._buckets.append(_Bucket(len(members), width))
            sources.append(source.flatten())
            n_places += source.numel()
        is_padding = torch.ones(n_places, dtype=torch.bool)
        is_padding[back] = False
        self._places = torch.cat(sources).to(device)
        self._padding = is_padding.nonzero()[:, 0].to(device)
        self._back = back.to(device)

    def positions(self, n_tokens: int) -> Int[Tensor, " T"]:
        """Where each token stands in its piece."""
        assert n_tokens == len(self._positions)
        return self._positions

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "1 H T K"],
        k: Float[Tensor, "1 G T K"],
        v: Float[Tensor, "1 G T K"],
    ) -> Float[Tensor, "1 H T K"]:
        """Causal attention within each piece."""
        # Heads are repeated by hand: with grouped ones torch takes a slower path on CPUs.
        group = q.shape[1] // k.shape[1]
        sizes = [bucket.n_places for bucket in self._buckets]
        lines = [_Pad.apply(x[0], self._places, self._back) for x in (q, k, v)]  # type: ignore[no-untyped-call]
        parts = []
        for bucket, *own in zip(
            self._buckets, *(line.split(sizes, 1) for line in lines), strict=True
        ):
            shaped = [_shaped(x, bucket) for x in own]
            shaped[1:] = [x.repeat_interleave(group, 1) for x in shaped[1:]]
            mixed = attention(*shaped)
            parts.append(mixed.transpose(0, 1).flatten(1, 2))
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return _Unpad.apply(joined, self._places, self._back, self._padding)[None]  # type: ignore[no-any-return,no-untyped-call]

    def advance(self, n_tokens: int) -> None:
        """Nothing is kept."""


class _Pad(torch.autograd.Function):
    """A row's tokens at their padded places. Gradients of padding are 0: nothing sees it.

    The way back picks as well: adding up by index, as autograd would, is slow on CPUs.
    """

    @staticmethod
    def forward(ctx: Any, row: Tensor, places: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return row.index_select(1, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(1, *ctx.saved_tensors), None, None


class _Unpad(torch.autograd.Function):
    """What stands at the padded places of a row's tokens."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, places: Tensor, back: Tensor, padding: Tensor) -> Tensor:
        ctx.save_for_backward(places, padding)
        return padded.index_select(1, back)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        places, padding = ctx.saved_tensors
        return gradients[0].index_select(1, places).index_fill_(1, padding, 0), None, None, None


def _shaped(lines: Tensor, bucket: _Bucket) -> Tensor:
    """One padded line a piece. [n, H, W, K]"""
    return lines.view(len(lines), bucket.n_pieces, bucket.width, -1).transpose(0, 1)


def _width(length: int) -> int:
    """A padded length at most a quarter longer, of few different ones."""
    step = STEP
    while length > 8 * step:
        step *= 2
    return -(-length // step) * step
