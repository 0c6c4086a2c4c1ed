"""Caches for many short sequences that begin alike: their common beginning is read once.

The new tokens of all sequences stand behind each other in one row, so that the matrix products
waste nothing. Attention sees three parts, merged by online softmax: the shared beginning, the
sequence's own earlier tokens, and its new ones.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deepseek.model.cache import DenseCache
from deepseek.model.config import ModelConfig
from deepseek.ops.attention import attention_part, merge_parts

GROWTH = 256  # positions a slot grows by


class Ragged:
    """Between a row of sequences behind each other and one padded line a sequence."""

    def __init__(self, lengths: Sequence[int], offset: int, device: torch.device) -> None:
        """Lay out sequences of some lengths that begin at `offset` of the row."""
        self.width = max(lengths)
        starts = torch.tensor([0, *accumulate(lengths)][:-1], device=device)
        self.lengths = torch.tensor(list(lengths), device=device)
        steps = torch.arange(self.width, device=device)
        self.is_real: Bool[Tensor, "N W"] = steps < self.lengths[:, None]
        # Padding repeats the sequence's first token: any real value will do.
        self.source: Int[Tensor, "N W"] = offset + starts[:, None] + steps * self.is_real
        self.back: Int[Tensor, " T"] = self.is_real.flatten().nonzero()[:, 0]

    def pad(self, row: Float[Tensor, "1 H R K"]) -> Float[Tensor, "N H W K"]:
        """One line a sequence."""
        return row[0][:, self.source].transpose(0, 1)

    def unpad(self, lines: Float[Tensor, "N H W K"]) -> Float[Tensor, "1 H T K"]:
        """Back to one row, without the padding."""
        n_heads, width = lines.shape[1], lines.shape[3]
        return lines.transpose(0, 1).reshape(n_heads, -1, width)[:, self.back][None]

    def unpad_mass(self, lines: Float[Tensor, "N H W"]) -> Float[Tensor, "1 H T"]:
        """Back to one row, for the weights of a part."""
        return lines.transpose(0, 1).reshape(lines.shape[1], -1)[:, self.back][None]


def own_part(
    ragged: Ragged, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Float[Tensor, "1 H T K"], Float[Tensor, "1 H T"]]:
    """Each sequence's new tokens among themselves. Padding stands behind, so nothing sees it."""
    mixed, mass = attention_part(ragged.pad(q), ragged.pad(k), ragged.pad(v), is_causal=True)
    return ragged.unpad(mixed), ragged.unpad_mass(mass)


class ForkCache:
    """Contexts that continue one cached beginning, and continuations that follow each of them.

    For scoring: it keeps nothing. The row holds all contexts, then all continuations.
    """

    def __init__(
        self,
        prefix: DenseCache,
        contexts: Sequence[int],
        continuations: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        """Plan one forward pass.

        Args:
            prefix: The shared beginning; may be empty.
            contexts: Tokens of each context, at least one.
            continuations: For each context the tokens of each of its continuations, each at
                least one; a context may have none.
            device: Where the model is.
        """
        self._prefix = prefix
        n_context_tokens = sum(contexts)
        self._split = n_context_tokens
        self._contexts = Ragged(contexts, 0, device)
        flat = [n for lengths in continuations for n in lengths]
        self._ends = self._groups = None
        starts = [torch.arange(n, device=device) for n in contexts]
        starts += [
            size + torch.arange(n, device=device)
            for size, lengths in zip(contexts, continuations, strict=True)
            for n in lengths
        ]
        self._positions = prefix.length + torch.cat(starts)
        if flat:
            self._ends = Ragged(flat, n_context_tokens, device)
            # All continuations of a context look at it together.
            self._askers = torch.tensor(
                [i for i, lengths in enumerate(continuations) if lengths], device=device
            )
            totals = [sum(lengths) for lengths in continuations if lengths]
            self._groups = Ragged(totals, n_context_tokens, device)

    def positions(self, n_tokens: int) -> Int[Tensor, " T"]:
        """Where each token of the row stands in its own sequence."""
        assert n_tokens == len(self._positions)
        return self._positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "1 H T K"]:
        """Merge what each token sees: the beginning, its context, and its own tokens."""
        contexts = self._contexts
        context_k, context_v = contexts.pad(k), contexts.pad(v)
        own, own_mass = attention_part(contexts.pad(q), context_k, context_v, is_causal=True)
        mixed, mass = contexts.unpad(own), contexts.unpad_mass(own_mass)
        if self._ends is not None and self._groups is not None:
            ends, ends_mass = own_part(self._ends, q, k, v)
            seen, seen_mass = attention_part(
                self._groups.pad(q),
                context_k[self._askers],
                context_v[self._askers],
                key_mask=contexts.is_real[self._askers],
            )
            groups = self._groups
            ends, ends_mass = merge_parts(
                ends, ends_mass, groups.unpad(seen), groups.unpad_mass(seen_mass)
            )
            mixed, mass = torch.cat((mixed, ends), 2), torch.cat((mass, ends_mass), 2)
        if self._prefix.length:
            part, part_mass = attention_part(q, *self._prefix.read(layer))
            mixed, mass = merge_parts(mixed, mass, part, part_mass)
        return mixed

    def advance(self, n_tokens: int) -> None:
        """Nothing is kept."""


class SlotCache:
    """Sequences that continue one cached beginning and grow token by token, each in a slot.

    The running sequences are always the first slots: `remove` fills the gap with the last one.
    """

    def __init__(
        self, prefix: DenseCache, config: ModelConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._prefix = prefix
        self._shape = (config.n_kv_heads, config.d_head)
        self._dtype, self._device = dtype, device
        self._layers: list[tuple[Tensor, Tensor] | None] = [None] * config.n_layers
        self._lengths: list[int] = []
        self._entering: Ragged | None = None
        self._entering_lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._lengths)

    def enter(self, lengths: Sequence[int]) -> None:
        """Let the next forward pass read that many tokens for each of some new sequences."""
        self._entering_lengths = list(lengths)
        self._entering = Ragged(lengths, 0, self._device)

    @torch.inference_mode()
    def remove(self, slot: int) -> None:
        """End one sequence; the last slot's sequence takes its place."""
        last = len(self._lengths) - 1
        if slot != last:
            for pair in self._layers:
                assert pair is not None
                for tensor in pair:
                    tensor[slot] = tensor[last]
        self._lengths[slot] = self._lengths[last]
        self._lengths.pop()

    def positions(self, n_tokens: int) -> Int[Tensor, " T"]:
        """Where each new token stands in its own sequence."""
        if self._entering is not None:
            steps = torch.arange(self._entering.width, device=self._device)
            own = steps.expand_as(self._entering.is_real)[self._entering.is_real]
        else:
            own = torch.tensor(self._lengths, device=self._device)
        assert n_tokens == len(own)
        return self._prefix.length + own

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "1 H T K"]:
        """Merge what each new token sees: the beginning and its own sequence."""
        mixed, mass = self._enter(layer, q, k, v) if self._entering else self._step(layer, q, k, v)
        if self._prefix.length:
            part, part_mass = attention_part(q, *self._prefix.read(layer))
            mixed, mass = merge_parts(mixed, mass, part, part_mass)
        return mixed

    def advance(self, n_tokens: int) -> None:
        """Count the new tokens once every layer has them."""
        if self._entering is not None:
            self._lengths += self._entering_lengths
            self._entering = None
        else:
            self._lengths = [n + 1 for n in self._lengths]

    def _enter(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        assert self._entering is not None
        n_old, n_new = len(self._lengths), len(self._entering_lengths)
        keys, values = self._reserved(layer, n_old + n_new, self._entering.width)
        new = slice(n_old, n_old + n_new)
        keys[new, :, : self._entering.width] = self._entering.pad(k)
        values[new, :, : self._entering.width] = self._entering.pad(v)
        return own_part(self._entering, q, k, v)

    def _step(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        n, longest = len(self._lengths), max(self._lengths) + 1
        keys, values = self._reserved(layer, n, longest)
        slots = torch.arange(n, device=self._device)
        ends = torch.tensor(self._lengths, device=self._device)
        keys[slots, :, ends] = k[0].transpose(0, 1)
        values[slots, :, ends] = v[0].transpose(0, 1)
        seen = torch.arange(longest, device=self._device) <= ends[:, None]
        mixed, mass = attention_part(
            q[0].transpose(0, 1)[:, :, None],
            keys[:n, :, :longest],
            values[:n, :, :longest],
            key_mask=seen,
        )
        return mixed[:, :, 0].transpose(0, 1)[None], mass[:, :, 0].transpose(0, 1)[None]

    def _reserved(self, layer: int, n_slots: int, length: int) -> tuple[Tensor, Tensor]:
        pair = self._layers[layer]
        if pair is not None and pair[0].shape[0] >= n_slots and pair[0].shape[2] >= length:
            return pair
        had = (0, 0) if pair is None else (pair[0].shape[0], pair[0].shape[2])
        rounded = -(-max(length, had[1]) // GROWTH) * GROWTH
        shape = (max(n_slots, had[0]), self._shape[0], rounded, self._shape[1])
        fresh = [torch.zeros(shape, dtype=self._dtype, device=self._device) for _ in range(2)]
        if pair is not None:
            for new, old in zip(fresh, pair, strict=True):
                new[: had[0], :, : had[1]] = old
        self._layers[layer] = (fresh[0], fresh[1])
        return fresh[0], fresh[1]
