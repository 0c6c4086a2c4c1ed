"""Bits per byte on texts that nothing is learned from: comparable across tokenizers."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from deepseek.data.packed import PackedRow, Window, pack
from deepseek.data.stream import IGNORED, Piece
from deepseek.data.token_file import TokenFile
from deepseek.model.packed import PackedCache
from deepseek.model.transformer import Transformer
from deepseek.train.loss import sum_nats


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Texts by name, read up to so many tokens of each."""

    sets: Mapping[str, TokenFile]
    window: int
    """Tokens that are read together; a longer document is cut."""
    most: int = 100_000
    """Tokens of a set, whole documents."""

    def rows(self, name: str, device: torch.device) -> Iterator[PackedRow]:
        """What is read of a set, about a window at a time."""
        tokens = self.sets[name]
        return _rows(tokens, _n_documents(tokens, self.most), self.window, device)

    @torch.no_grad()
    def bits_per_byte(self, model: Transformer, dtype: torch.dtype) -> dict[str, float]:
        """Of each set, as the model is now."""
        device = next(model.parameters()).device
        found = {}
        for name, tokens in self.sets.items():
            nats, n_documents = 0.0, _n_documents(tokens, self.most)
            for row in self.rows(name, device):
                with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
                    hidden = model.hidden_states(row.ids, PackedCache(row.lengths, device))
                    nats += sum_nats(lambda x: model.head(model.norm(x)), hidden, row.labels)
            n_bytes = int(tokens.n_bytes[:n_documents].sum())
            if n_bytes:
                found[name] = nats / math.log(2) / n_bytes
        return found


def _n_documents(tokens: TokenFile, most: int) -> int:
    """Documents that have up to so many tokens together; one at least, if there is one."""
    return min(tokens.n_documents, max(1, int(np.searchsorted(tokens.ends, most, side="right"))))


def _rows(
    tokens: TokenFile, n_documents: int, window: int, device: torch.device
) -> Iterator[PackedRow]:
    pieces: list[Piece] = []
    room = window
    for number in range(n_documents):
        start, end = tokens.span(number)
        ids = tokens.tokens[start:end].astype(np.int64)
        labels = np.append(ids[1:], IGNORED)
        for first in range(0, len(ids), window):
            piece = Piece(ids[first : first + window], labels[first : first + window])
            if len(piece.ids) > room:
                yield pack([Window(0, tuple(pieces))], device)
                pieces, room = [], window
            pieces.append(piece)
            room -= len(piece.ids)
    if pieces:
        yield pack([Window(0, tuple(pieces))], device)
