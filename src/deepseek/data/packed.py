"""Windows of documents behind each other, and several windows as one row for a model.

Where a window ends, its last document goes on in the next one; nothing is cut off and nothing
padded. `model.packed.PackedCache` keeps documents from seeing each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from deepseek.data.stream import DocumentStream, Piece


@dataclass(frozen=True, slots=True)
class Window:
    """So many tokens of one source."""

    source: int
    """Which of the sampler's sources."""
    pieces: tuple[Piece, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens that are read."""
        return sum(len(piece.ids) for piece in self.pieces)

    @property
    def n_labels(self) -> int:
        """Tokens that something is learned from."""
        return sum(int((piece.labels >= 0).sum()) for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Several windows as one row of tokens."""

    ids: Int[Tensor, "1 N"]
    labels: Int[Tensor, " N"]
    """What follows; negative where nothing is learned from."""
    lengths: tuple[int, ...]
    """Of the pieces, none of which sees another."""
    sources: Int[Tensor, " N"]
    """Where each token comes from."""


def cut_window(stream: DocumentStream, source: int, size: int, *, unbroken: bool = False) -> Window:
    """Take the next window of a stream.

    Args:
        stream: Where from.
        source: Its number.
        size: Tokens, at most.
        unbroken: End the window in front of a document that does not fit any more, so that no
            answer is read without its question. What is longer than a window goes on all the same.
    """
    pieces: list[Piece] = []
    left = size
    while left and not (unbroken and pieces and stream.n_left > left):
        pieces.append(stream.take(left))
        left -= len(pieces[-1].ids)
    return Window(source, tuple(pieces))


def pack(windows: Sequence[Window], device: torch.device | str = "cpu") -> PackedRow:
    """Put windows behind each other."""
    pieces = [piece for window in windows for piece in window.pieces]
    sizes = [sum(len(piece.ids) for piece in window.pieces) for window in windows]
    sources = np.repeat([window.source for window in windows], sizes)
    return PackedRow(
        ids=torch.from_numpy(np.concatenate([piece.ids for piece in pieces]))[None].to(device),
        labels=torch.from_numpy(np.concatenate([piece.labels for piece in pieces])).to(device),
        lengths=tuple(len(piece.ids) for piece in pieces),
        sources=torch.from_numpy(sources.astype(np.int64)).to(device),
    )
