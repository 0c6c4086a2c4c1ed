"""A quantised model in the native library: all layers in one call, for any number of new tokens.

The slow reference is `Transformer.hidden_states`, layer by layer through torch.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from deepseek.model.adapter import Parts, shape_of
from deepseek.model.block import Block
from deepseek.model.budget import ROWS, PageCounts
from deepseek.model.config import ModelConfig
from deepseek.model.disk import DiskPool
from deepseek.model.feed_forward import FeedForward
from deepseek.model.linear import Linear
from deepseek.model.moe.config import MoEConfig
from deepseek.model.moe.layer import LowRankMixture
from deepseek.model.pages import ColdPages, PagedSequence, PagePool
from deepseek.model.transformer import Transformer
from deepseek.ops import native
from deepseek.ops.cold import ColdTier
from deepseek.ops.hierarchical import Hierarchy
from deepseek.ops.linear import QuantisedWeight
from deepseek.ops.native import NativeMatrix
from deepseek.ops.native_model import Matrix, NativeModel, Norm


class NativeDecoder:
    """A model whose matrices are all packed for the kernels."""

    def __init__(
        self,
        model: Transformer,
        hierarchy: Hierarchy | None = None,
        tier: ColdTier | None = None,
        most: PageCounts | None = None,
    ) -> None:
        """Take a model for which `can_decode` holds.

        Args:
            model: All quantised.
            hierarchy: What long sequences see; None: everything.
            tier: What they see in 8 or 4 bits; None: nothing.
            most: Pages that there may be, reserved at once; None: pools grow.
        """
        self._model = model
        config = model.config
        hot, nodes, cold = (None, None, None) if most is None else (most.hot, most.nodes, most.cold)
        self.pool = PagePool(config, most=hot)
        self.memory = (
            PagePool(config, has_values=False, most=nodes) if hierarchy is not None else None
        )
        self.tier = tier
        self.cold = None if tier is None else _cold_pool(config, tier, cold)
        self._native = NativeModel(shape_of(config))
        for layer, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            for which, (matrix, bias) in zip(Matrix, _matrices(block), strict=False):
                self._native.set_matrix(layer, which, matrix, bias)
            if isinstance(block.feed_forward, LowRankMixture):
                gate, experts = block.feed_forward.gate, block.feed_forward.experts.packed
                assert experts is not None
                own = gate.native, gate.tensors
                self._native.set_experts(layer, own, experts.hidden, experts.down)
            self._native.set_norm(layer, Norm.ATTENTION, block.attention_norm.weight)
            self._native.set_norm(layer, Norm.FEED_FORWARD, block.feed_forward_norm.weight)
        assert isinstance(model.head.packed, QuantisedWeight)
        (head,) = model.head.packed.parts
        self._native.set_matrix(0, Matrix.HEAD, head)
        if config.tied_embeddings:
            self._native.set_matrix(0, Matrix.EMBEDDING, head)
        self._native.set_norm(0, Norm.LAST, model.norm.weight)
        if hierarchy is not None:
            self._native.set_hierarchy(hierarchy)

    def sequence(self, slack: int | None = None, rows: int = ROWS) -> PagedSequence:
        """An empty one.

        Args:
            slack: Tokens before the window whose pages it keeps as they are; None: those of the
                tier. It must not be cut back by more.
            rows: Most tokens of it in a pass.
        """
        cold = None
        if self.cold is not None and self.tier is not None:
            tier = self.tier if slack is None else replace(self.tier, slack=slack)
            cold = ColdPages(pool=self.cold, tier=tier, expand=self._expand, rows=rows)
        return PagedSequence(self.pool, self.memory, cold)

    def add_adapter(self, parts: Parts) -> int:
        """Keep what an adapter adds for the sequences that will have its number.

        Raises:
            ValueError: A shape is wrong, or numbers are too large.
        """
        return self._native.add_adapter(parts)

    def remove_adapter(self, number: int) -> None:
        """Give its memory back; no sequence may have it any more."""
        self._native.remove_adapter(number)

    @property
    def pools(self) -> tuple[PagePool, ...]:
        """All pages, by kind."""
        return tuple(p for p in (self.pool, self.memory, self.cold) if p is not None)

    @property
    def vocab_size(self) -> int:
        """Tokens that it knows."""
        return self._model.config.vocab_size

    @property
    def tier_bytes(self) -> dict[str, int]:
        """Bytes reserved for keys and values as they are, in 8 or 4 bits (in memory, or on a disk),
        and for memory nodes."""
        n_cold = 0 if self.cold is None else self.cold.n_bytes
        is_on_disk = isinstance(self.cold, DiskPool)
        return {
            "hot": self.pool.n_bytes,
            "cold": 0 if is_on_disk else n_cold,
            "disk": n_cold if is_on_disk else 0,
            "memory nodes": 0 if self.memory is None else self.memory.n_bytes,
        }

    def trace(self, wanted: bool) -> Int32[Tensor, "L G C"]:
        """Note from now on, or no longer, which pages the last queries of a pass recall."""
        return self._native.trace(wanted)

    def run(
        self, token_ids: Sequence[Sequence[int]], sequences: Sequence[PagedSequence]
    ) -> Float32[Tensor, "T D"]:
        """What the last block returns for new tokens of some sequences, which keep them.

        Args:
            token_ids: At least one new token of each sequence.
            sequences: All of one pool.

        Returns:
            The rows of all sequences, one sequence behind the other.
        """
        new = [s.extend(len(ids)) for s, ids in zip(sequences, token_ids, strict=True)]
        row = [token for ids in token_ids for token in ids]
        self._show_pages()
        self._rotate_up_to(max(n.length + n.count for n in new))
        if self._native.has_embedding:
            x = self._native.forward(new, token_ids=row)
        else:
            rows: Tensor = self._model.embedding(torch.tensor([row]))
            x = self._native.forward(new, embeddings=rows[0].float().contiguous())
        for sequence, n in zip(sequences, new, strict=True):
            sequence.advance(n.count)
        return x

    def _show_pages(self) -> None:
        """Tell the library of pools that have grown."""
        if self._native.pages is not self.pool.pages:
            self._native.set_cache(self.pool.pages)
        if self.memory is not None and self._native.memory is not self.memory.pages:
            self._native.set_memory(self.memory.pages)
        if self.cold is not None:
            assert self.tier is not None
            places = self.cold.file if isinstance(self.cold, DiskPool) else self.cold.pages
            if self._native.cold is not places:
                self._native.set_cold(places, self.tier)

    def _expand(self, cold_page: int, page: int) -> None:
        self._show_pages()
        self._native.expand(cold_page, page)

    def _rotate_up_to(self, length: int) -> None:
        """Make sure of rotations for that many positions."""
        if length <= self._native.n_positions:
            return
        wanted = max(length, 2 * self._native.n_positions, 1_024)
        self._native.set_rope(self._model.config.rope_theta, wanted)

    def logits(self, hidden: Float32[Tensor, "T D"]) -> Float32[Tensor, "T V"]:
        """Logits for the token after each hidden state."""
        return self._native.logits(hidden, self._model.config.vocab_size)


def _cold_pool(config: ModelConfig, tier: ColdTier, most: int | None) -> PagePool:
    if tier.folder is None:
        return PagePool(config, bits=tier.bits, most=most)
    return DiskPool(config, bits=tier.bits, folder=tier.folder)


def can_decode(model: Transformer) -> bool:
    """Whether a model is all quantised, but for experts that add to it, and of a shape that the
    library takes."""
    linears = [m for m in model.modules() if isinstance(m, Linear)]
    mixtures = [m for m in model.modules() if isinstance(m, LowRankMixture)]
    return (
        native.is_available()
        and all(isinstance(linear.packed, QuantisedWeight) for linear in linears)
        and all(mixture.experts.packed is not None for mixture in mixtures)
        and takes_shape(model.config)
    )


def takes_shape(config: ModelConfig) -> bool:
    """Whether the library computes models of such a shape; of mixtures it takes those whose experts
    add to a dense layer."""
    sizes = config.d_head, config.d_model, config.d_ff
    return (
        takes_experts(config.moe) and config.d_head <= 256 and all(size % 32 == 0 for size in sizes)
    )


def takes_experts(moe: MoEConfig | None) -> bool:
    """Whether the library computes such a mixture, or there is none."""
    if moe is None:
        return True
    return moe.form == "low_rank" and moe.routing == "learned" and moe.n_active_experts > 0


def _matrices(block: Block) -> list[tuple[NativeMatrix, Tensor | None]]:
    """Queries, keys, values, output, gate, up, down, each with its bias."""
    found: list[tuple[NativeMatrix, Tensor | None]] = []
    attention, feed_forward = block.attention, block.feed_forward
    if isinstance(feed_forward, LowRankMixture):
        feed_forward = feed_forward.dense
    assert isinstance(feed_forward, FeedForward), "`can_decode` holds"
    for linear in (attention.qkv, attention.output, feed_forward.gate_up, feed_forward.down):
        assert isinstance(linear.packed, QuantisedWeight)
        parts = linear.packed.parts
        biases: list[Tensor | None] = [None] * len(parts)
        if linear.bias is not None:
            sizes = [part.shape[0] for part in parts]
            whole = linear.bias.detach().float()
            biases = [b.contiguous() for b in torch.split(whole, sizes)]
        found += list(zip(parts, biases, strict=True))
    return found
