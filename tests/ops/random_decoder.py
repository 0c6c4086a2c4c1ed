"""A random decoder in the native library, and the same in float64."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepseek.core.codes import Codes
from deepseek.core.low_rank import LowRank
from deepseek.ops.cold import ColdBits, ColdTier, cold_keys, cold_values, page_bytes
from deepseek.ops.hierarchical import (
    PAGE,
    Carried,
    Hierarchy,
    Recalled,
    Turns,
    attend_page,
    summarise,
)
from deepseek.ops.moe.gate import Choice, choose, chosen_scores, gate_logits, normalised
from deepseek.ops.moe.low_rank import low_rank_reference
from deepseek.ops.moe.native import GateTensors, NativeExperts, NativeGate
from deepseek.ops.native import NativeMatrix
from deepseek.ops.native_model import Matrix, NativeModel, NewTokens, Norm, Pages, Shape
from deepseek.ops.rope import apply_rope, rope_table

SHAPES = (
    Shape(n_layers=1, d_model=64, n_heads=4, n_kv_heads=2, d_head=32, d_ff=96, epsilon=1e-5),
    Shape(n_layers=1, d_model=96, n_heads=7, n_kv_heads=1, d_head=96, d_ff=32, epsilon=1e-6),
    Shape(n_layers=2, d_model=128, n_heads=3, n_kv_heads=3, d_head=64, d_ff=160, epsilon=1e-5),
)
VOCABULARY = 50
N_POSITIONS = 80 * PAGE
BLOCK = 5
THETA = 10_000.0
Place = tuple[int, Matrix]
Part = tuple[Tensor, int, Sequence[int]] | tuple[Tensor, int, Sequence[int], int]


@dataclass
class Experts:
    """Those of one layer, which add to its feed-forward products."""

    sizes: Sequence[int]
    gate: GateTensors
    pairs: Mapping[Matrix, tuple[Tensor, Tensor]]
    scale: float = 1.5
    n_active: int = 2

    def choose(self, x: Tensor) -> Choice:
        """In float32, as gates always do."""
        scores = gate_logits(x, self.gate.weight).sigmoid()
        experts = choose(scores, self.gate.bias, self.n_active)
        return Choice(experts, normalised(chosen_scores(scores, experts)))


class Decoder:
    """A random model in the library, and the same in float64."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape = shape
        self._generator = torch.Generator().manual_seed(seed)
        self.native = NativeModel(shape)
        self._matrices: dict[tuple[int, Matrix], tuple[NativeMatrix, Tensor | None]] = {}
        self._norms: dict[tuple[int, Norm], Tensor] = {}
        self._before: dict[int, Carried] = {}
        self._tier: ColdTier | None = None
        self._cold: tuple[Tensor, Tensor] | None = None
        self._adapter: Mapping[Place, LowRank] = {}
        self._experts: dict[int, Experts] = {}
        self._choice: Choice | None = None
        self.recalled: dict[int, Recalled | None] = {}
        """What the last queries chose in each layer, by `reference`."""
        d = shape.d_model
        for layer in range(shape.n_layers):
            for which in list(Matrix)[:7]:
                self._add(layer, which, *shape.of(which), has_bias=which <= Matrix.V)
            for norm in (Norm.ATTENTION, Norm.FEED_FORWARD):
                self._add_norm(layer, norm)
        self._add(0, Matrix.HEAD, VOCABULARY, d, has_bias=False)
        self._add(0, Matrix.EMBEDDING, VOCABULARY, d, has_bias=False)
        self.native.set_rope(THETA, N_POSITIONS)
        self._add_norm(0, Norm.LAST)

    def matrix(self, which: Matrix) -> NativeMatrix:
        """One of no layer."""
        return self._matrices[0, which][0]

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)

    def _add(self, layer: int, which: Matrix, n_out: int, n_in: int, *, has_bias: bool) -> None:
        bits = 4 if which % 2 else 8
        codes = torch.randint(1 << bits, (n_out, n_in), generator=self._generator)
        scales = self._random(n_out, n_in // 32).abs() * 2.0 / (1 << bits) / n_in**0.5
        zeros = None if bits == 8 else scales * -7.5
        matrix = NativeMatrix(4 if bits == 4 else 8, n_out, n_in)
        matrix.put(0, Codes(matrix.bits, codes.to(torch.uint8), scales, zeros))
        bias = self._random(n_out) * 0.1 if has_bias else None
        self._matrices[layer, which] = matrix, bias
        self.native.set_matrix(layer, which, matrix, bias)

    def _add_norm(self, layer: int, which: Norm) -> None:
        self._norms[layer, which] = 1 + 0.1 * self._random(self.shape.d_model)
        self.native.set_norm(layer, which, self._norms[layer, which])

    def _product(self, layer: int, which: Matrix, x: Tensor) -> Tensor:
        matrix, bias = self._matrices[layer, which]
        out = torch.empty(len(x), matrix.shape[0])
        matrix.multiply(x.float().contiguous(), out, 0, bias)  # tested in test_native.py
        added, product = self._adapter.get((layer, which)), out.double()
        if added is not None:
            down, up = (m.bfloat16().double() for m in (added.down, added.up * added.scale))
            product = product + x @ down.T @ up.T
        experts = self._experts.get(layer)
        if experts is None or which not in experts.pairs:
            return product
        assert self._choice is not None
        pair = experts.pairs[which][0].double(), experts.pairs[which][1].double()
        return low_rank_reference(
            x.double(), product, self._choice, experts.sizes, pair, experts.scale
        )

    def add_experts(self, sizes: Sequence[int], dtype: torch.dtype) -> None:
        """Random ones beside each layer's feed-forward products."""
        shape, n = self.shape, len(sizes)
        for layer in range(shape.n_layers):
            gate = GateTensors(
                weight=self._random(n, shape.d_model) / shape.d_model**0.5,
                bias=self._random(n) * 0.1,
                load=torch.zeros(2, n + 1, dtype=torch.int64),
            )
            pairs = {}
            for which in (Matrix.GATE, Matrix.UP, Matrix.DOWN):
                n_out, n_in = shape.of(which)
                down = self._random(sum(sizes), n_in) / n_in**0.5
                pairs[which] = down.to(dtype), (self._random(sum(sizes), n_out) / 4).to(dtype)
            own = Experts(sizes, gate, pairs)
            hidden, down = (
                NativeExperts(
                    sizes,
                    [pairs[which][0] for which in some],
                    [pairs[which][1] for which in some],
                    scale=own.scale,
                    is_low_rank=True,
                )
                for some in ((Matrix.GATE, Matrix.UP), (Matrix.DOWN,))
            )
            rules = NativeGate(
                n_active=own.n_active,
                n_parts=1,
                n_domains=0,
                kind="shares",
                bounds=[(0, n)],
                always=(),
                d_model=shape.d_model,
            )
            self._rules = rules
            self.native.set_experts(layer, (rules, gate), hidden, down)
            self._experts[layer] = own

    def loads(self) -> list[Tensor]:
        """Slots that each layer's experts have had, those that stayed empty last."""
        return [own.gate.load.sum(0) for own in self._experts.values()]

    def adapter(self, rank: int, *matrices: Matrix, size: float = 1.0) -> dict[Place, LowRank]:
        """A random one that adds to some matrices of each layer, all of them if none is named."""
        parts = {}
        for layer in range(self.shape.n_layers):
            for which in matrices or list(Matrix)[:7]:
                n_out, n_in = self.shape.of(which)
                down, up = self._random(rank, n_in) / n_in**0.5, self._random(n_out, rank)
                parts[layer, which] = LowRank(down, up, size / rank**0.5)
        return parts

    def _norm(self, layer: int, which: Norm, x: Tensor) -> Tensor:
        rms = (x.square().mean(-1, keepdim=True) + self.shape.epsilon).sqrt()
        return x / rms * self._norms[layer, which].double()

    def reference(
        self,
        x: Tensor,
        hierarchy: Hierarchy | None = None,
        few: int = 0,
        tier: ColdTier | None = None,
        adapter: Mapping[Place, LowRank] | None = None,
    ) -> Tensor:
        """All layers in float64; products round to 8 bits, the cache to bfloat16.

        Args:
            x: Embeddings of one sequence.
            hierarchy: What positions see; None: everything.
            few: How many last tokens ask.
            tier: Which keys and values are seen in fewer bits; None: none.
            adapter: What is added to products; None: nothing.
        """
        self._adapter = adapter or {}
        shape, n = self.shape, len(x)
        rope = rope_table(torch.arange(n), shape.d_head, THETA, torch.float64)
        x = x.double()
        self._before.clear()
        for layer in range(shape.n_layers):
            normed = self._norm(layer, Norm.ATTENTION, x)
            heads = [
                self._product(layer, which, normed).view(1, n, -1, shape.d_head).transpose(1, 2)
                for which in (Matrix.Q, Matrix.K, Matrix.V)
            ]
            q = (apply_rope(heads[0], *rope) / shape.d_head**0.5).bfloat16().double()
            k, v = (t.bfloat16().double() for t in (apply_rope(heads[1], *rope), heads[2]))
            self._tier = tier
            if tier is not None:
                whole = n // PAGE * PAGE
                keys, values = (t[:, :, :whole].bfloat16() for t in (k, v))
                self._cold = (
                    cold_keys(keys, tier.bits).double(),
                    cold_values(values, tier.bits).double(),
                )
            if hierarchy is None:
                mixed = self._see_all(q, k, v)
            else:
                mixed = self._see_some(q[0], k[0], v[0], hierarchy, few, layer)
            x = x + self._product(layer, Matrix.O, mixed.transpose(-3, -2).reshape(n, -1))
            normed = self._norm(layer, Norm.FEED_FORWARD, x)
            own = self._experts.get(layer)
            self._choice = None if own is None else own.choose(normed.float())
            gates = torch.nn.functional.silu(self._product(layer, Matrix.GATE, normed))
            x = x + self._product(
                layer, Matrix.DOWN, gates * self._product(layer, Matrix.UP, normed)
            )
        return x

    def _see_all(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, repeats = q.shape[2], self.shape.n_heads // self.shape.n_kv_heads
        rows = []
        for start in range(0, n, PAGE):
            end = min(start + PAGE, n)
            seen = self._seen(start // PAGE, k[:, :, :end], v[:, :, :end])
            keys, values = (t.repeat_interleave(repeats, 1) for t in seen)
            scores = q[:, :, start:end] @ keys.transpose(2, 3)
            unseen = torch.arange(end) > torch.arange(start, end)[:, None]
            rows.append(scores.masked_fill(unseen, -torch.inf).softmax(-1) @ values)
        return torch.cat(rows, 2)

    def _seen(self, page: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values as queries in a page see them."""
        if self._tier is None or self._cold is None:
            return k, v
        cold = (c.view(*k.shape[:-2], -1, k.shape[-1]) for c in self._cold)
        keys, values = (
            self._tier.seen(page, exact, c) for exact, c in zip((k, v), cold, strict=True)
        )
        return keys, values

    def _see_some(
        self, q: Tensor, k: Tensor, v: Tensor, hierarchy: Hierarchy, few: int, layer: int
    ) -> Tensor:
        n, turns = q.shape[1], Turns(theta=THETA)
        nodes = summarise(k[:, : n // PAGE * PAGE]).bfloat16().double()
        at = min(n, hierarchy.n_dense)
        rows = [self._see_all(*(t[None, :, :at] for t in (q, k, v)))[0]] if at else []
        while at < n:
            end = min((at // PAGE + 1) * PAGE, n if at >= n - few else n - few)
            mixed, recalled = attend_page(
                q[:, at:end] * self.shape.d_head**0.5,
                *self._seen(at // PAGE, k[:, :end], v[:, :end]),
                *(nodes, hierarchy, turns),
                asks=at >= n - few,
                before=self._before.get(at),
                layer=layer,
            )
            self.recalled[layer] = recalled
            if recalled is not None:
                self._before[at] = recalled.carried
            rows.append(mixed)
            at = end
        return torch.cat(rows, 1)

    def logits(self, x: Tensor) -> Tensor:
        """In float64 from what `reference` returns."""
        return self._product(0, Matrix.HEAD, self._norm(0, Norm.LAST, x.double()))

    def is_settled(self, x: Tensor) -> Tensor:
        """Rows of what `reference` returns in whose head no number lies between two codes.

        A single-precision norm may round those either way.
        """
        blocks = self._norm(0, Norm.LAST, x.double()).reshape(len(x), -1, 32)
        codes = blocks / blocks.abs().amax(-1, keepdim=True) * 127
        return ((codes - codes.floor() - 0.5).abs() > 2e-4).flatten(1).all(1)

    def embeddings(self, n_tokens: int) -> Tensor:
        """Random ones."""
        return self._random(n_tokens, self.shape.d_model)


class Cache:
    """Pages in no order; what was never written is no number."""

    def __init__(self, shape: Shape, n_pages: int, bits: ColdBits = 8) -> None:
        self.pages = _blank(shape, n_pages, has_values=True)
        self.memory = _blank(shape, n_pages, has_values=False)
        size = (shape.n_layers, BLOCK, shape.n_kv_heads, page_bytes(bits, shape.d_head))
        keys, values = (
            [torch.full(size, 255, dtype=torch.uint8) for _ in self.pages.keys] for _ in range(2)
        )
        self.cold = Pages(keys=keys, values=values)


def _blank(shape: Shape, n_pages: int, *, has_values: bool) -> Pages:
    """Blocks of so few pages that there are several."""
    size = (shape.n_layers, BLOCK, shape.n_kv_heads, PAGE * shape.d_head)
    n_blocks = -(-n_pages // BLOCK)
    return Pages(
        keys=[torch.full(size, torch.nan).bfloat16() for _ in range(n_blocks)],
        values=[torch.full(size, torch.nan).bfloat16() for _ in range(n_blocks * has_values)],
    )


def run(decoder: Decoder, cache: Cache, parts: Sequence[Part]) -> list[Tensor]:
    """Run new tokens of some sequences in one pass: embeddings, earlier tokens, pages, and the
    adapter's number if there is one."""
    x = torch.cat([part[0] for part in parts])
    new = [
        NewTokens(count=len(x), length=n, pages=pages, adapter=adapter[0] if adapter else -1)
        for x, n, pages, *adapter in parts
    ]
    decoder.native.set_cache(cache.pages)
    got = decoder.native.forward(new, embeddings=x)
    return list(got.split([len(part[0]) for part in parts]))
