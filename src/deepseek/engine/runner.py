"""Runs a model over cached sequences: chunked prefill, decode steps, prefix reuse, batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from deepseek.model.transformer import Transformer
from deepseek.ops.cold import ColdTier
from deepseek.ops.hierarchical import PAGE, Hierarchy

# Prompt tokens a forward pass: bounds the activations' memory. Attention takes larger blocks
# of queries from 768 on.
CHUNK = 1_024


@runtime_checkable
class Slots(Protocol):
    """Sequences that continue one beginning and grow token by token, each in a slot.

    The running sequences are always the first slots: `remove` fills the gap with the last one.
    """

    def enter(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "N D"]:
        """Read what follows the beginning in some new sequences; hidden states after each."""
        ...

    def step(self, token_ids: Sequence[int]) -> Float[Tensor, "N D"]:
        """Append one token to every running sequence; hidden states after each."""
        ...

    def remove(self, slot: int) -> None:
        """End one sequence; the last slot's sequence takes its place."""
        ...

    def close(self) -> None:
        """End all."""
        ...


class Runner(ABC):
    """A model with one sequence in its cache, and branches that continue it.

    `read` keeps the longest common prefix of the cached and the wanted tokens, so that a
    follow-up question or the next candidate after a shared text costs only what is new.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        dtype: torch.dtype,
        device: torch.device,
        hierarchy: Hierarchy | None = None,
        tier: ColdTier | None = None,
    ) -> None:
        self.model = model
        self.dtype, self.device = dtype, device
        self.hierarchy, self.tier = hierarchy, tier
        self.tokens: list[int] = []

    @property
    @abstractmethod
    def tier_bytes(self) -> dict[str, int]:
        """Bytes reserved for `hot` and `cold` keys and values and for `memory nodes`."""

    @property
    def cache_bytes(self) -> int:
        """Bytes of all tiers."""
        return sum(self.tier_bytes.values())

    @abstractmethod
    def head(self, hidden: Float[Tensor, "W D"]) -> Float[Tensor, "W V"]:
        """Logits for the token after each hidden state."""

    @abstractmethod
    def read_branches(
        self,
        beginning: Sequence[int],
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[Sequence[int]]],
    ) -> tuple[Float[Tensor, "C D"], Float[Tensor, "T D"]]:
        """Contexts that continue one beginning, and continuations that follow each of them.

        Args:
            beginning: Read once, and kept for the next call; may be empty.
            contexts: Tokens of each context, at least one.
            continuations: For each context the tokens of each of its continuations, each at
                least one; a context may have none.

        Returns:
            Hidden states after each context, and after each token of all continuations.
        """

    @abstractmethod
    def slots(self, beginning: Sequence[int]) -> Slots:
        """Sequences to generate side by side, after a common beginning that may be empty."""

    @abstractmethod
    def _forward(self, token_ids: list[int], last: int) -> Float[Tensor, "L V"]:
        """Append tokens and return the logits after the last ones."""

    @abstractmethod
    def _truncate(self, length: int) -> None:
        """Cut the cache, not `tokens`."""

    def reusable(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens are in the cache already."""
        common = 0
        for cached, wanted in zip(self.tokens, token_ids, strict=False):
            if cached != wanted:
                break
            common += 1
        return common

    def read(
        self,
        token_ids: Sequence[int],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Float[Tensor, " V"]:
        """Bring the cache to exactly `token_ids` and return the logits after the last one.

        Args:
            token_ids: At least one token.
            on_progress: Called with tokens read and tokens to read before each chunk; an
                exception from it (cancellation) leaves a consistent cache.
        """
        # The last token is always run again: its logits are wanted and were not kept.
        reused = self._from_whole_pages(min(self.reusable(token_ids), len(token_ids) - 1))
        self.rewind(reused)
        fresh = list(token_ids[reused:])
        logits: Tensor | None = None
        for start in range(0, len(fresh), CHUNK):
            if on_progress:
                on_progress(start, len(fresh))
            chunk = fresh[start : start + CHUNK]
            is_last = start + CHUNK >= len(fresh)
            logits = self._append(chunk, last=1 if is_last else 0)
        assert logits is not None
        return logits[-1]

    def fill(self, token_ids: Sequence[int]) -> None:
        """Bring the cache to exactly `token_ids`, without logits."""
        reused = self.reusable(token_ids)
        if reused < len(token_ids):
            reused = self._from_whole_pages(reused)
        self.rewind(reused)
        for start in range(reused, len(token_ids), CHUNK):
            self._append(list(token_ids[start : start + CHUNK]), last=0)

    def step(self, token_id: int) -> Float[Tensor, " V"]:
        """Append one token and return the logits after it."""
        return self._append([token_id], last=1)[-1]

    def extend(self, token_ids: Sequence[int]) -> Float[Tensor, "T V"]:
        """Append tokens and return the logits after each of them."""
        return self._append(list(token_ids), last=len(token_ids))

    def rewind(self, n_tokens: int) -> None:
        """Forget everything after the first `n_tokens`."""
        self._truncate(n_tokens)
        del self.tokens[n_tokens:]

    def _from_whole_pages(self, length: int) -> int:
        """Where to go on reading: queries that choose together are read together."""
        return length if self.hierarchy is None else length // PAGE * PAGE

    def _append(self, token_ids: list[int], last: int) -> Tensor:
        logits = self._forward(token_ids, last)
        self.tokens += token_ids
        return logits


def places_of_ends(parts: Sequence[Sequence[int]]) -> list[int]:
    """Where the last token of each part stands in the row of all."""
    ends, place = [], -1
    for part in parts:
        place += len(part)
        ends.append(place)
    return ends
