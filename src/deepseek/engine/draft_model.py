"""A small model that guesses for a large one with the same vocabulary."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from deepseek.core.errors import ConfigError
from deepseek.engine.runner import places_of_ends
from deepseek.model.budget import ROWS, Needs, PageCounts
from deepseek.model.config import ModelConfig
from deepseek.model.decoder import NativeDecoder
from deepseek.model.memory_plan import Share
from deepseek.model.pages import PagedSequence
from deepseek.ops.hierarchical import PAGE
from deepseek.tokenizer.tokenizer import Tokenizer

SEEN, WINDOW = 1_024, 2_048
"""Tokens before the guess that it begins with, and those from which on it begins anew: what is
farther away helps little, and reading it would take time."""
READINGS = 2
"""Requests of which it can have read a whole window, within a memory budget."""
MOST = 63
"""Guessed tokens in a pass."""
LEARNING = 0.1
MANY = 32
"""Tokens to catch up with that say little about what a step takes."""


@dataclass(slots=True, eq=False)
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

    def forget(self) -> None:
        """Give all pages back; the request is read anew if there is another guess."""
        self.sequence.release()
        self.tokens.clear()


class DraftModel:
    """Guesses greedily, for several requests at the same time."""

    def __init__(self, decoder: NativeDecoder) -> None:
        """Take a model for itself; its positions are those of dense attention."""
        self.seconds = 0.0
        """Of a step."""
        self._decoder = decoder
        self._readings: dict[Reading, None] = {}
        """The one that was asked for the longest ago first."""

    def read(self, tokens: Sequence[int]) -> Reading:
        """Begin with a request."""
        reading = Reading(self._decoder.sequence(), max(0, len(tokens) - SEEN))
        self._readings[reading] = None
        return reading

    def leave(self, reading: Reading) -> None:
        """Have done with a request."""
        reading.forget()
        del self._readings[reading]

    def measure(self) -> None:
        """Find out what a step takes."""
        reading = self.read([])
        try:
            self.guess([(reading, [0] * 8, 1)])
            self.seconds = 0.0
            self.guess([(reading, [0] * 8, 4)])
        finally:
            self.leave(reading)

    def guess(self, wanted: Sequence[tuple[Reading, Sequence[int], int]]) -> list[list[int]]:
        """The likeliest next tokens; none of a request for which there are no pages.

        Args:
            wanted: What was read of some requests, all their tokens, and how many to guess.
        """
        start = time.perf_counter()
        found: list[list[int]] = [[] for _ in wanted]
        new = self._new_tokens(wanted)
        n_new = sum(map(len, new.values()))
        if n_new > ROWS:
            self._catch_up(wanted, new)
        n_steps = max((wanted[i][2] for i in new), default=0)
        for step in range(n_steps):
            open_ = [i for i in new if step < wanted[i][2]]
            readings = [wanted[i][0] for i in open_]
            tokens = [new[i] for i in open_]
            hidden = self._decoder.run(tokens, [reading.sequence for reading in readings])
            logits = self._decoder.logits(hidden[places_of_ends(tokens)])
            for i, token in zip(open_, logits.argmax(-1).tolist(), strict=True):
                found[i].append(token)
                if step + 1 < wanted[i][2]:
                    wanted[i][0].tokens.append(token)
                new[i] = [token]
        if 0 < n_new < MANY:
            self._note((time.perf_counter() - start) / n_steps)
        return found

    def _new_tokens(
        self, wanted: Sequence[tuple[Reading, Sequence[int], int]]
    ) -> dict[int, list[int]]:
        """What must be read, by place, of those requests for which there are pages."""
        asked = {reading for reading, *_ in wanted}
        for reading in asked:
            self._readings.pop(reading, None)
            self._readings[reading] = None
        new, promised = dict[int, list[int]](), 0
        for i, (reading, tokens, n) in enumerate(wanted):
            rest = reading.follow(tokens)
            needed = reading.sequence.missing(len(rest) + n - 1).keys
            if self._has_room(promised + needed, asked):
                new[i] = rest
                promised += needed
            else:
                reading.forget()
        return new

    def _has_room(self, n_pages: int, asked: set[Reading]) -> bool:
        """Whether there are pages, if what was read of requests that do not ask now goes."""
        pool = self._decoder.pool
        if pool.most is None:
            return True
        for reading in self._readings:
            if pool.most - pool.n_used >= n_pages:
                break
            if reading not in asked:
                reading.forget()
        return pool.most - pool.n_used >= n_pages

    def _catch_up(
        self, wanted: Sequence[tuple[Reading, Sequence[int], int]], new: dict[int, list[int]]
    ) -> None:
        """Read all but the last tokens one request after the other, in passes of bounded size."""
        for i, tokens in new.items():
            for start in range(0, len(tokens) - 1, ROWS):
                part = tokens[start : min(start + ROWS, len(tokens) - 1)]
                self._decoder.run([part], [wanted[i][0].sequence])
            new[i] = tokens[-1:]

    def _note(self, seconds: float) -> None:
        self.seconds += (seconds - self.seconds) * (LEARNING if self.seconds else 1.0)


def pages_of_draft_model() -> PageCounts:
    """Pages that it has within a memory budget."""
    return PageCounts(hot=READINGS * -(-(WINDOW + MOST) // PAGE))


def shares_of_draft_model(config: ModelConfig, weights: int) -> tuple[Share, ...]:
    """What it takes of a memory budget.

    Args:
        config: Of the draft model.
        weights: Their bytes.
    """
    needs = Needs(config=config, n_bytes=0, taken=0, weights=weights, has_nodes=False)
    pages = pages_of_draft_model()
    size = needs.cache_bytes(pages, "bfloat16")
    return (
        Share("draft model", weights),
        Share("its keys and values", size, f"{pages.hot:,} pages of {size // pages.hot:,}"),
        Share("its working memory", needs.working_bytes(WINDOW, "bfloat16")),
    )


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
