"""A small model that guesses for a large one with the same vocabulary."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from deepseek.core.errors import ConfigError
from deepseek.engine.runner import places_of_ends
from deepseek.model.decoder import NativeDecoder
from deepseek.model.pages import PagedSequence
from deepseek.tokenizer.tokenizer import Tokenizer

SEEN, WINDOW = 1_024, 2_048
"""Tokens before the guess that it begins with, and those from which on it begins anew: what is
farther away helps little, and reading it would take time."""
LEARNING = 0.1
MANY = 32
"""Tokens to catch up with that say little about what a step takes."""


@dataclass(slots=True)
class Reading:
    """What it has read of a request."""

    sequence: PagedSequence
    start: int
    """Where in the request's tokens that begins."""
    tokens: list[int] = field(default_factory=list)

    def follow(self, tokens: Sequence[int]) -> list[int]:
        """What it must read to know all tokens; what was guessed wrong is forgotten."""
        if len(tokens) - self.start > WINDOW:
            self.start = len(tokens) - SEEN
            self.tokens.clear()
        new = list(tokens[self.start :])
        same = min(len(self.tokens), len(new) - 1)  # the last one must run for its logits
        while self.tokens[:same] != new[:same]:
            same -= 1
        self.sequence.truncate(same)
        self.tokens = new
        return new[same:]


class DraftModel:
    """Guesses greedily, for several requests at the same time."""

    def __init__(self, decoder: NativeDecoder) -> None:
        """Take a model for itself; its positions are those of dense attention."""
        self.seconds = 0.0
        """Of a step."""
        self._decoder = decoder

    def read(self, tokens: Sequence[int]) -> Reading:
        """Begin with a request."""
        return Reading(self._decoder.sequence(), max(0, len(tokens) - SEEN))

    def measure(self) -> None:
        """Find out what a step takes."""
        reading = self.read([])
        try:
            self.guess([(reading, [0] * 8, 1)])
            self.seconds = 0.0
            self.guess([(reading, [0] * 8, 4)])
        finally:
            reading.sequence.release()

    def guess(self, wanted: Sequence[tuple[Reading, Sequence[int], int]]) -> list[list[int]]:
        """The likeliest next tokens.

        Args:
            wanted: What was read of some requests, all their tokens, and how many to guess.
        """
        start = time.perf_counter()
        found: list[list[int]] = [[] for _ in wanted]
        new = [reading.follow(tokens) for reading, tokens, _ in wanted]
        n_new = sum(map(len, new))
        n_steps = max(n for *_, n in wanted)
        for step in range(n_steps):
            open_ = [i for i, (_, _, n) in enumerate(wanted) if step < n]
            readings = [wanted[i][0] for i in open_]
            tokens = [new[i] for i in open_]
            hidden = self._decoder.run(tokens, [reading.sequence for reading in readings])
            logits = self._decoder.logits(hidden[places_of_ends(tokens)])
            for i, token in zip(open_, logits.argmax(-1).tolist(), strict=True):
                found[i].append(token)
                if step + 1 < wanted[i][2]:
                    wanted[i][0].tokens.append(token)
                new[i] = [token]
        if n_new < MANY:
            self._note((time.perf_counter() - start) / n_steps)
        return found

    def _note(self, seconds: float) -> None:
        self.seconds += (seconds - self.seconds) * (LEARNING if self.seconds else 1.0)


def check_vocabulary(draft_model: Tokenizer, tokenizer: Tokenizer) -> None:
    """Make sure that a number means the same token to both.

    Raises:
        ConfigError: It does not.
    """
    n = min(draft_model.vocab_size, tokenizer.vocab_size)
    if n < tokenizer.vocab_size or any(
        draft_model.token_text(i) != tokenizer.token_text(i) for i in range(n)
    ):
        raise ConfigError(
            "the draft model has another vocabulary than the model",
            "take a smaller model of the same family",
        )
