"""Runs a model over cached sequences: chunked prefill, decode steps, prefix reuse, batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from deepseek.core.llm import Attended
from deepseek.model.budget import Budget
from deepseek.model.context_file import PageTable
from deepseek.model.transformer import Transformer
from deepseek.ops.cold import ColdTier
from deepseek.ops.hierarchical import FEW, NODES, PAGE, Hierarchy

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
        budget: Budget | None = None,
    ) -> None:
        self.model, self.budget = model, budget
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

    @property
    @abstractmethod
    def tables(self) -> Sequence[PageTable]:
        """The cached sequence as pages of each kind, for saved contexts."""

    @abstractmethod
    def recalled(self) -> Int[Tensor, "L G C"] | None:
        """Pages that the last queries of the last pass recalled, by layer and group of heads.

        -1 where there are fewer. None: what they see is dense. Ask `watch` for it before the pass.
        """

    @abstractmethod
    def watch(self, wanted: bool) -> None:
        """Note from now on, or no longer, what is recalled."""

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

    @abstractmethod
    def _count_restored(self, n_tokens: int) -> None:
        """Count tokens whose pages were put into the tables."""

    def restore(
        self, token_ids: Sequence[int], pages: Sequence[Iterable[UInt8[Tensor, " N"]]]
    ) -> None:
        """Fill the cache with the pages of each kind; after an error it is empty.

        Args:
            token_ids: Whose keys and values they hold: a whole number of pages.
            pages: For each of `tables`, the pages in order.

        Raises:
            ContextError: A page is damaged.
        """
        self.rewind(0)
        try:
            for table, contents in zip(self.tables, pages, strict=True):
                for content in contents:
                    table.append(content)
        except BaseException:
            self._truncate(0)
            raise
        self._count_restored(len(token_ids))
        self.tokens = list(token_ids)

    def reusable(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens are in the cache already."""
        common = 0
        for cached, wanted in zip(self.tokens, token_ids, strict=False):
            if cached != wanted:
                break
            common += 1
        return common

    def resumed_at(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens are not read again.

        The last token always is: its logits are wanted and were not kept. Queries that choose
        together are read together, and a few alone would choose alone: so that what was cached
        changes nothing, reading goes on from a whole page with more than a few tokens left.
        """
        length, n_tokens = self.reusable(token_ids), len(token_ids)
        if self.hierarchy is None:
            return min(length, n_tokens - 1)
        return min(length, max(0, n_tokens - FEW - 1)) // PAGE * PAGE

    def attended(self) -> Attended:
        """What the last token in the cache saw."""
        return attended(len(self.tokens), self.hierarchy, self.tier_bytes)

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
        reused = self.resumed_at(token_ids)
        self.rewind(reused)
        logits: Tensor | None = None
        for start, end in _chunks(reused, len(token_ids)):
            if on_progress:
                on_progress(start - reused, len(token_ids) - reused)
            last = 1 if end == len(token_ids) else 0
            logits = self._append(list(token_ids[start:end]), last)
        assert logits is not None
        return logits[-1]

    def fill(
        self,
        token_ids: Sequence[int],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Bring the cache to exactly `token_ids`, without logits."""
        reused = self.reusable(token_ids)
        if reused < len(token_ids):
            reused = self.resumed_at(token_ids)
        self.rewind(reused)
        for start, end in _chunks(reused, len(token_ids)):
            if on_progress:
                on_progress(start - reused, len(token_ids) - reused)
            self._append(list(token_ids[start:end]), last=0)

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

    def _append(self, token_ids: list[int], last: int) -> Tensor:
        logits = self._forward(token_ids, last)
        self.tokens += token_ids
        return logits


def attended(n_tokens: int, hierarchy: Hierarchy | None, tier_bytes: dict[str, int]) -> Attended:
    """What the last of some tokens in a cache saw."""
    window, sinks, recalled, n_nodes = n_tokens, 0, 0, 0
    if hierarchy is not None:
        n_nodes = n_tokens // PAGE * NODES
        if n_tokens > hierarchy.dense // PAGE * PAGE:
            page = (n_tokens - 1) // PAGE
            start, first = hierarchy.window_start(page), hierarchy.sinks_end(page)
            window, sinks = n_tokens - start * PAGE, first * PAGE
            recalled = min(hierarchy.recall, (start - first) * PAGE)
    return Attended(
        n_tokens=n_tokens,
        window=window,
        sinks=sinks,
        recalled=recalled,
        n_memory_nodes=n_nodes,
        tier_bytes=tier_bytes,
    )


def _chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where chunks begin and end: at the same places wherever reading begins."""
    while start < end:
        stop = min(end, (start // CHUNK + 1) * CHUNK)
        yield start, stop
        start = stop


def places_of_ends(parts: Sequence[Sequence[int]]) -> list[int]:
    """Where the last token of each part stands in the row of all."""
    ends, place = [], -1
    for part in parts:
        place += len(part)
        ends.append(place)
    return ends
