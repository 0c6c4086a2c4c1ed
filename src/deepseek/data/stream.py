"""Documents of one source in an order that follows from seed and position alone.

Each epoch has an order of its own, cut into portions; within a portion, easier documents may
come first. The position is all there is to save, and the same on every machine.
"""

from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from deepseek.core.errors import ConfigError
from deepseek.data.token_file import TokenFile


@dataclass(slots=True)
class Position:
    """Where a stream is: in which epoch, portion, document and at which of its tokens."""

    epoch: int = 0
    first: int = 0
    """Documents of this epoch before the portion."""
    place: int = 0
    """Documents of the portion that were read."""
    offset: int = 0
    """Tokens of the current document that were read."""
    pacing: float = 0.0
    portion: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Some tokens of a document in a row."""

    ids: Int64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    """What follows each token; `IGNORED` after a document's last."""


class DocumentStream:
    """Endless tokens of one source."""

    def __init__(self, tokens: TokenFile, name: str, seed: int) -> None:
        """Begin at the first document.

        Raises:
            ConfigError: The source has no documents.
        """
        if not tokens.n_tokens:
            raise ConfigError(f"source {name} has no text to train on", "name more files in paths")
        self.tokens, self.name, self._seed = tokens, name, seed
        self.position = Position()
        self._order = self._portion()

    def pace(self, pacing: float, portion: int) -> None:
        """Set how the order goes on from here.

        Args:
            pacing: 0 for a random order, 1 for the easiest documents first, -1 for the hardest;
                between, documents wander by as much.
            portion: Tokens that are put in order together, about what will be read; 0 for a whole
                epoch. Which documents are read depends on it only by its last ones.
        """
        before = self.position
        if (pacing, portion) == (before.pacing, before.portion) == (0.0, 0):
            return  # the same order goes on
        done = before.place + (before.offset > 0)
        # Of a portion in another order the rest would be other documents: it counts as read.
        first = before.first + (len(self._order) if before.pacing and done else done)
        is_over = first >= self.tokens.n_documents
        epoch = before.epoch + is_over
        self.position = Position(epoch, 0 if is_over else first, 0, 0, pacing, portion)
        self._order = self._portion()

    @property
    def number(self) -> int:
        """The document that is read next."""
        return int(self._order[self.position.place])

    @property
    def n_left(self) -> int:
        """Tokens of it that were not read yet."""
        start, end = self.tokens.span(self.number)
        return end - start - self.position.offset

    def take(self, n_tokens: int) -> Piece:
        """The next tokens of one document: its rest, or as many as are wanted (1 or more)."""
        position = self.position
        number = self.number
        start, end = self.tokens.span(number)
        piece = Piece(*self.tokens.piece(number, position.offset, n_tokens))
        self._advance(position.offset + len(piece.ids), end - start)
        return piece

    def state(self) -> dict[str, Any]:
        """The position, for a checkpoint."""
        return asdict(self.position)

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a saved position."""
        self.position = Position(**state)
        self._order = self._portion()

    def _advance(self, offset: int, length: int) -> None:
        position = self.position
        position.offset = offset
        if offset < length:
            return
        position.offset, position.place = 0, position.place + 1
        if position.place < len(self._order):
            return
        position.first, position.place = position.first + len(self._order), 0
        if position.first >= self.tokens.n_documents:
            position.epoch, position.first = position.epoch + 1, 0
        self._order = self._portion()

    def _portion(self) -> Int64[np.ndarray, " n"]:
        """Documents from the position's `first` on, as they will be read."""
        position, tokens = self.position, self.tokens
        keys = _keys(tokens.n_documents, f"{self._seed} {self.name} {position.epoch}")
        order = np.argsort(keys, kind="stable")[position.first :]
        if position.portion:
            sizes = np.diff(tokens.ends, prepend=0)[order]
            order = order[: int(np.searchsorted(np.cumsum(sizes), position.portion)) + 1]
        if position.pacing:
            ranks = np.empty(len(order))
            ranks[np.argsort(tokens.difficulty[order], kind="stable")] = np.arange(len(order))
            share = keys[order].astype(np.float64) / 2.0**64
            pace = position.pacing
            wanted = pace * ranks / len(order) + (1 - abs(pace)) * share
            order = order[np.argsort(wanted, kind="stable")]
        return order


def _keys(n: int, seed: str) -> UInt64[np.ndarray, " n"]:
    """Random numbers by splitmix64 (Steele et al. 2014), which no library's version changes."""
    start = int.from_bytes(blake2b(seed.encode(), digest_size=8).digest(), "little")
    z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
