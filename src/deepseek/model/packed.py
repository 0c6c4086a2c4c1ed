"""Attention of a packed row in training: each piece of text sees itself alone.

Axes as in `ops.attention`; N tokens of all pieces behind each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    source: Int[Tensor, " M"]
    """Where each of their padded places stands in the row."""


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
        n_places = 0
        for width in sorted(set(widths.tolist())):
            members = (widths == width).nonzero()[:, 0]
            steps = torch.arange(width)
            is_real = steps < sizes[members, None]
            # Padding repeats a piece's first token: nothing sees it, and any value will do.
            source = starts[members, None] + steps * is_real
            places = n_places + torch.arange(source.numel()).view(source.shape)
            back[source[is_real]] = places[is_real]
            self._buckets.append(_Bucket(len(members), width, source.flatten().to(device)))
            n_places += source.numel()
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
        parts = []
        for bucket in self._buckets:
            lines = [_lines(x, bucket) for x in (q, k, v)]
            # Heads are repeated by hand: with grouped ones torch takes a slower path on CPUs.
            group = q.shape[1] // k.shape[1]
            lines[1:] = [x.repeat_interleave(group, 1) for x in lines[1:]]
            mixed = attention(*lines)
            parts.append(mixed.transpose(0, 1).flatten(1, 2))
        return torch.cat(parts, 1).index_select(1, self._back)[None]

    def advance(self, n_tokens: int) -> None:
        """Nothing is kept."""


def _lines(row: Tensor, bucket: _Bucket) -> Tensor:
    """One padded line a piece. [n, H, W, K]"""
    taken = row[0].index_select(1, bucket.source)
    return taken.view(len(taken), bucket.n_pieces, bucket.width, -1).transpose(0, 1)


def _width(length: int) -> int:
    """A padded length at most a quarter longer, of few different ones."""
    step = STEP
    while length > 8 * step:
        step *= 2
    return -(-length // step) * step
