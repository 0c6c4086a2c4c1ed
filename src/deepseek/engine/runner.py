"""Runs a model over cached sequences: chunked prefill, decode steps, prefix reuse, batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from deepseek.core.errors import RequestError
from deepseek.core.llm import Attended, ExpertsUsed
from deepseek.engine.grouping import common_length
from deepseek.model.adapter import Parts
from deepseek.model.budget import Budget
from deepseek.model.context_file import PageTable
from deepseek.model.transformer import Transformer
from deepseek.ops.cold import ColdTier
from deepseek.ops.hierarchical import NEVER, NODES, PAGE, QUESTION, Hierarchy
from deepseek.ops.native_model import NO_ADAPTER

# Prompt tokens a forward pass: bounds the activations' memory. Attention takes larger blocks
# of queries from 768 on.
CHUNK = 1_024


@runtime_checkable
class Slots(Protocol):
    """Sequences that continue one beginning and grow token by token, each in a slot.

    The running sequences are always the first slots: `remove` fills the gap with the last one.
    """

    def enter(
        self,
        prompts: Sequence[Sequence[int]],
        adapters: Sequence[int],
        shares: Sequence[float | None],
    ) -> Float[Tensor, "N D"]:
        """Read what follows the beginning in some new sequences; hidden states after each.

        Args:
            prompts: At least one token of each.
            adapters: Their numbers; that of the runner if there is a beginning.
            shares: Of experts that they may use, likewise; None: all.
        """
        ...

    def step(self, token_ids: Sequence[int]) -> Float[Tensor, "N D"]:
        """Append one token to every running sequence; hidden states after each."""
        ...

    def experts_used(self, slot: int) -> ExpertsUsed | None:
        """By one sequence, if it has a share."""
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
        self._asks_from = NEVER
        self._adapter = NO_ADAPTER
        self._share: float | None = None

    @property
    def adapter(self) -> int:
        """The number of the adapter with which the cached sequence is read."""
        return self._adapter

    def use(self, adapter: int) -> None:
        """Read with another adapter, or `NO_ADAPTER`, from now on; what is cached is forgotten."""
        if adapter != self._adapter:
            self.rewind(0)
            self._adapter = adapter
            self._use(adapter)

    @abstractmethod
    def _use(self, adapter: int) -> None:
        """Tell the cache."""

    @property
    def share(self) -> float | None:
        """The share of experts with which the cached sequence is read; None: all."""
        return self._share

    def spend(self, share: float | None) -> None:
        """Read with another share of experts from now on; what is cached is forgotten."""
        if share != self._share:
            self.rewind(0)
            self._share = share
            self._spend(share)

    def _spend(self, share: float | None) -> None:
        assert share is None, "`check_experts` refuses it"

    def experts_used(self) -> ExpertsUsed | None:
        """By the cached sequence, if it has a share."""
        return None

    @abstractmethod
    def add_adapter(self, parts: Parts, fingerprint: str = "") -> int:
        """Keep an adapter, and return its number, which no other one ever gets.

        Args:
            parts: What it adds.
            fingerprint: Of that; with one, what is read with it may go to a disk.

        Raises:
            ValueError: It holds numbers that are too large.
        """

    @abstractmethod
    def remove_adapter(self, number: int) -> None:
        """Give its memory back, and all that was read with it."""

    @property
    def asks_from(self) -> int:
        """The position from which tokens choose by keys what they recall of a long text."""
        return self._asks_from

    @asks_from.setter
    def asks_from(self, position: int) -> None:
        self._asks_from = position
        self._ask_from(position)

    @abstractmethod
    def _ask_from(self, position: int) -> None:
        """Tell the cache."""

    @property
    @abstractmethod
    def tier_bytes(self) -> dict[str, int]:
        """Bytes reserved for `hot` and `cold` keys and values, in memory or on a `disk`, and for
        `memory nodes`."""

    @property
    def cache_bytes(self) -> int:
        """Bytes of all tiers in memory."""
        return sum(size for kind, size in self.tier_bytes.items() if kind != "disk")

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
                places = table.places(len(token_ids))
                for place, content in zip(places, contents, strict=True):
                    table.put(place, content)
        except BaseException:
            self._truncate(0)
            raise
        self._count_restored(len(token_ids))
        self.tokens = list(token_ids)

    def is_as_read(self, n_tokens: int) -> bool:
        """Whether the first tokens in the cache are as reading them leaves them, to be saved."""
        assert n_tokens <= len(self.tokens)
        return True

    def reusable(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens are in the cache already."""
        return common_length(self.tokens, token_ids)

    def resumed_at(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens are not read again.

        The last token always is: its logits are wanted and were not kept. Beyond the dense part,
        tokens that asked before and do not now are read anew, and so are those that ask now, so
        that what was cached changes nothing.
        """
        return min(self._alike(token_ids, first_asking(len(token_ids))), len(token_ids) - 1)

    def _alike(self, token_ids: Sequence[int], asks_from: int) -> int:
        """How many leading tokens are in the cache as they would be read if tokens asked from
        there on."""
        length, hierarchy = self.reusable(token_ids), self.hierarchy
        if hierarchy is None or length <= hierarchy.n_dense:
            return length
        is_whole = length == len(token_ids) == len(self.tokens)
        if asks_from == self.asks_from and (length >= asks_from or is_whole):
            return length
        # Queries that choose together are read together, so that reading begins with a page.
        read = min(length, self.asks_from, asks_from) // PAGE * PAGE
        return max(hierarchy.n_dense, read)

    def _shared(
        self, beginning: Sequence[int], contexts: Sequence[Sequence[int]]
    ) -> tuple[Sequence[int], list[Sequence[int]]]:
        """What can be read once of a common beginning, and what is left for each context.

        The last tokens of each prompt ask, and those that choose together are read together.
        """
        if self.hierarchy is None:
            return beginning, list(contexts)
        shortest = len(beginning) + min(map(len, contexts), default=0)
        n_dense = min(len(beginning), self.hierarchy.n_dense)
        n_read = min(len(beginning), first_asking(shortest)) // PAGE * PAGE
        kept = max(n_dense, n_read)
        return beginning[:kept], [[*beginning[kept:], *context] for context in contexts]

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
        self.prepare(token_ids)
        reused = self.resumed_at(token_ids)
        self.rewind(reused)
        self.asks_from = first_asking(len(token_ids))
        logits: Tensor | None = None
        for start, end in _chunks(reused, len(token_ids)):
            if on_progress:
                on_progress(start - reused, len(token_ids) - reused)
            last = 1 if end == len(token_ids) else 0
            logits = self._append(list(token_ids[start:end]), last)
        assert logits is not None
        self._leave(len(token_ids))
        return logits[-1]

    def fill(
        self,
        token_ids: Sequence[int],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Bring the cache to exactly `token_ids`, none of which asks, without logits."""
        self.prepare(token_ids)
        reused = self._alike(token_ids, NEVER)
        self.rewind(reused)
        self.asks_from = NEVER
        for start, end in _chunks(reused, len(token_ids)):
            if on_progress:
                on_progress(start - reused, len(token_ids) - reused)
            self._append(list(token_ids[start:end]), last=0)
        self._leave(len(token_ids))

    @abstractmethod
    def prepare(self, token_ids: Sequence[int]) -> None:
        """Begin with what other requests have read of a prompt, if that is more than is here."""

    @abstractmethod
    def _leave(self, n_tokens: int) -> None:
        """Let other requests begin with what was read."""

    def step(self, token_id: int) -> Float[Tensor, " V"]:
        """Append one token and return the logits after it."""
        return self._append([token_id], last=1)[-1]

    def extend(self, token_ids: Sequence[int]) -> Float[Tensor, "T V"]:
        """Append tokens and return the logits after each of them."""
        return self._append(list(token_ids), last=len(token_ids))

    def rewind(self, n_tokens: int) -> None:
        """Forget everything after the first `n_tokens`.

        Raises:
            RequestError: What they see cannot be read back; then everything is forgotten.
        """
        if n_tokens < self.asks_from:
            self.asks_from = NEVER
        try:
            self._truncate(n_tokens)
        except RequestError:
            self.tokens.clear()
            raise
        del self.tokens[n_tokens:]

    def _append(self, token_ids: list[int], last: int) -> Tensor:
        logits = self._forward(token_ids, last)
        self.tokens += token_ids
        return logits


def first_asking(n_prompt: int) -> int:
    """The position of the first token of a prompt that asks."""
    return max(0, n_prompt - QUESTION)


def attended(n_tokens: int, hierarchy: Hierarchy | None, tier_bytes: dict[str, int]) -> Attended:
    """What the last of some tokens in a cache saw."""
    window, sinks, recalled, n_nodes = n_tokens, 0, 0, 0
    if hierarchy is not None:
        n_nodes = n_tokens // PAGE * NODES
        if n_tokens > hierarchy.n_dense:
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
