"""Bits per byte on texts that nothing is learned from: comparable across tokenizers."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from deepseek.data.packed import PackedRow, Window, pack
from deepseek.data.stream import Piece
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

    def nats_per_token(self, bits_per_byte: Mapping[str, float]) -> dict[str, float]:
        """The mean loss that bits per byte of the sets come from."""
        found = {}
        for name, bits in bits_per_byte.items():
            tokens = self.sets[name]
            n_documents = _n_documents(tokens, self.most)
            learned = tokens.tokens[: int(tokens.ends[n_documents - 1])] >= 0
            starts = np.append(0, tokens.ends[: n_documents - 1])
            n_labels = int(learned.sum()) - int(learned[starts].sum())
            nats = bits * math.log(2) * int(tokens.n_bytes[:n_documents].sum())
            found[name] = nats / max(1, n_labels)
        return found

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
        for first in range(0, end - start, window):
            piece = Piece(*tokens.piece(number, first, window))
            if len(piece.ids) > room:
                yield pack([Window(0, tuple(pieces))], device)
                pieces, room = [], window
            pieces.append(piece)
            room -= len(piece.ids)
    if pieces:
        yield pack([Window(0, tuple(pieces))], device)
