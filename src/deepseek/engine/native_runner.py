"""The runner through the native library: quantised models on a CPU.

A token's numbers are the same to the last bit alone, in a batch, and however its prompt was read.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deepseek.engine.prefix_tier import PrefixTier
from deepseek.engine.radix import RadixTree
from deepseek.engine.runner import Runner, Slots, first_asking, places_of_ends
from deepseek.engine.sharing import shareable_length
from deepseek.model.adapter import Parts
from deepseek.model.budget import Budget
from deepseek.model.context_file import PageTable
from deepseek.model.decoder import NativeDecoder
from deepseek.model.pages import PagedSequence
from deepseek.model.transformer import Transformer
from deepseek.ops.cold import ColdTier
from deepseek.ops.hierarchical import NEVER, Hierarchy
from deepseek.ops.native_model import NO_ADAPTER


class NativeRunner(Runner):
    """One native call a pass, over pages that sequences share."""

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
        super().__init__(
            model, dtype=dtype, device=device, hierarchy=hierarchy, tier=tier, budget=budget
        )
        most = None if budget is None else budget.pages
        self.decoder = NativeDecoder(model, hierarchy, tier, most)
        self._sequence = self.decoder.sequence()
        self._trace: Tensor | None = None
        self.tree: RadixTree | None = None
        """Pages that are shared with other requests over the same pools."""
        self.prefixes: PrefixTier | None = None
        """Those of earlier prompts on a disk."""

    @property
    def sequence(self) -> PagedSequence:
        """The cached one."""
        return self._sequence

    @property
    def tier_bytes(self) -> dict[str, int]:
        """Bytes reserved by kind, as in `Runner`."""
        return self.decoder.tier_bytes

    @property
    def tables(self) -> Sequence[PageTable]:
        """The cached sequence as pages of each kind, for saved contexts."""
        return self._sequence.tables

    def is_as_read(self, n_tokens: int) -> bool:
        """Whether the first tokens in the cache are as reading them leaves them, to be saved."""
        return super().is_as_read(n_tokens) and self._sequence.is_as_read(n_tokens)

    def recalled(self) -> Int[Tensor, "L G C"] | None:
        """Pages that the last queries of the last pass recalled, by layer and group of heads."""
        return self._trace

    def watch(self, wanted: bool) -> None:
        """Note from now on, or no longer, what is recalled."""
        if self.hierarchy is not None:
            trace = self.decoder.trace(wanted)
            self._trace = trace if wanted else None

    def add_adapter(self, parts: Parts, fingerprint: str = "") -> int:
        """Keep an adapter, and return its number, which no other one ever gets."""
        number = self.decoder.add_adapter(parts)
        if self.tree is not None and fingerprint:
            self.tree.know(number, fingerprint)
        return number

    def remove_adapter(self, number: int) -> None:
        """Give its memory back, and all that was read with it."""
        if self.adapter == number:
            self.use(NO_ADAPTER)
        if self.tree is not None:
            self.tree.forget(number)
        self.decoder.remove_adapter(number)

    def _use(self, adapter: int) -> None:
        self._sequence.adapter = adapter

    def prepare(self, token_ids: Sequence[int]) -> None:
        """Begin with what other requests have read of a prompt, if that is more than is here."""
        if self.tree is None:
            return
        most = min(shareable_length(len(token_ids), self.hierarchy), len(token_ids) - 1)
        if self.prefixes is not None:
            while self.prefixes.fetch(token_ids, most, adapter=self.adapter):
                pass
        # So much behind as if it had been read here: it may be cut back.
        slack = 0 if self.tier is None else self.tier.slack
        match = self.tree.match(token_ids, most, in_pages=True, adapter=self.adapter, slack=slack)
        if match.length > self.reusable(token_ids):
            self.rewind(0)
            self.asks_from = NEVER
            self._sequence.begin(match.length, match.keys, match.memory, match.cold)
            self.tokens = list(token_ids[: match.length])

    def _leave(self, n_tokens: int) -> None:
        if self.tree is not None:
            length = shareable_length(n_tokens, self.hierarchy)
            self.tree.insert(self.tokens[:length], self._sequence)

    @torch.inference_mode()
    def head(self, hidden: Float[Tensor, "W D"]) -> Float[Tensor, "W V"]:
        """Logits for the token after each hidden state."""
        return self.decoder.logits(hidden)

    @torch.inference_mode()
    def read_branches(
        self,
        beginning: Sequence[int],
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[Sequence[int]]],
    ) -> tuple[Float[Tensor, "C D"], Float[Tensor, "T D"]]:
        """All contexts in one pass; then their first continuations, their second, and so on."""
        beginning, contexts = self._shared(beginning, contexts)
        self.fill(beginning)
        sequences = [self._sequence.fork(len(beginning)) for _ in contexts]
        for sequence, context in zip(sequences, contexts, strict=True):
            sequence.asks_from = first_asking(len(beginning) + len(context))
        try:
            ends = self.decoder.run(contexts, sequences)[places_of_ends(contexts)]
            return ends, self._read_continuations(sequences, continuations)
        finally:
            for sequence in sequences:
                sequence.release()

    def _read_continuations(
        self,
        sequences: Sequence[PagedSequence],
        continuations: Sequence[Sequence[Sequence[int]]],
    ) -> Tensor:
        """Each continuation takes the place of the one before it."""
        lengths = [sequence.length for sequence in sequences]
        parts: dict[tuple[int, int], Tensor] = {}
        for turn in range(max(map(len, continuations), default=0)):
            askers = [i for i, each in enumerate(continuations) if turn < len(each)]
            tokens = [continuations[i][turn] for i in askers]
            hidden = self.decoder.run(tokens, [sequences[i] for i in askers])
            each = torch.split(hidden, [len(t) for t in tokens])
            for i, part in zip(askers, each, strict=True):
                parts[i, turn] = part
                sequences[i].truncate(lengths[i])
        ordered = [parts[key] for key in sorted(parts)]
        return torch.cat(ordered) if ordered else torch.empty(0, self.model.config.d_model)

    def slots(self, beginning: Sequence[int]) -> Slots:
        """Sequences to generate side by side, after a common beginning that may be empty."""
        beginning, (rest,) = self._shared(beginning, [()])
        self.fill(beginning)
        return _NativeSlots(self.decoder, self._sequence, rest)

    @torch.inference_mode()
    def _forward(self, token_ids: list[int], last: int) -> Tensor:
        if self._trace is not None:
            self._trace.fill_(-1)
        hidden = self.decoder.run([token_ids], [self._sequence])
        return self.decoder.logits(hidden[len(hidden) - last :])

    def _ask_from(self, position: int) -> None:
        self._sequence.asks_from = position

    def _truncate(self, length: int) -> None:
        self._sequence.truncate(length)

    def _count_restored(self, n_tokens: int) -> None:
        self._sequence.advance(n_tokens)


class _NativeSlots:
    def __init__(
        self, decoder: NativeDecoder, beginning: PagedSequence, rest: Sequence[int]
    ) -> None:
        self._decoder, self._beginning = decoder, beginning
        self._rest = rest  # of the beginning, which each sequence reads for itself
        self._running: list[PagedSequence] = []

    @torch.inference_mode()
    def enter(
        self,
        prompts: Sequence[Sequence[int]],
        adapters: Sequence[int],
        shares: Sequence[float | None],
    ) -> Tensor:
        assert all(share is None for share in shares), "`check_experts` refuses them"
        fresh = [self._beginning.fork(self._beginning.length) for _ in prompts]
        self._running += fresh
        rests = [[*self._rest, *prompt] for prompt in prompts]
        for sequence, rest, adapter in zip(fresh, rests, adapters, strict=True):
            sequence.asks_from = first_asking(sequence.length + len(rest))
            sequence.adapter = adapter
        return self._decoder.run(rests, fresh)[places_of_ends(rests)]

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int]) -> Tensor:
        return self._decoder.run([[token] for token in token_ids], self._running)

    def experts_used(self, slot: int) -> None:
        return None

    def remove(self, slot: int) -> None:
        self._running[slot].release()
        self._running[slot] = self._running[-1]
        self._running.pop()

    def close(self) -> None:
        for sequence in self._running:
            sequence.release()
        self._running.clear()
