"""The native decoder against float64 at every instruction set, and what must not change a bit."""

import ctypes
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from deepseek.core.codes import Codes
from deepseek.ops import native
from deepseek.ops.native import NativeMatrix
from deepseek.ops.native_model import (
    PAGE,
    Matrix,
    NativeModel,
    NewTokens,
    Norm,
    Pages,
    Shape,
    library,
)
from deepseek.ops.rope import apply_rope, rope_table

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
BEST = native.level()
SHAPES = (
    Shape(n_layers=1, d_model=64, n_heads=4, n_kv_heads=2, d_head=32, d_ff=96, epsilon=1e-5),
    Shape(n_layers=1, d_model=96, n_heads=7, n_kv_heads=1, d_head=96, d_ff=32, epsilon=1e-6),
    Shape(n_layers=2, d_model=128, n_heads=3, n_kv_heads=3, d_head=64, d_ff=160, epsilon=1e-5),
)
VOCABULARY = 50
N_POSITIONS = 1_500
THETA = 10_000.0


class Decoder:
    """A random model in the library, and the same in float64."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape = shape
        self._generator = torch.Generator().manual_seed(seed)
        self.native = NativeModel(shape)
        self._matrices: dict[tuple[int, Matrix], tuple[NativeMatrix, Tensor | None]] = {}
        self._norms: dict[tuple[int, Norm], Tensor] = {}
        query, group = shape.n_heads * shape.d_head, shape.n_kv_heads * shape.d_head
        wide, d = shape.d_ff, shape.d_model
        sizes = ((query, d), (group, d), (group, d), (d, query), (wide, d), (wide, d), (d, wide))
        for layer in range(shape.n_layers):
            for which, (n_out, n_in) in zip(Matrix, sizes, strict=False):
                self._add(layer, which, n_out, n_in, has_bias=which <= Matrix.V)
            for norm in (Norm.ATTENTION, Norm.FEED_FORWARD):
                self._add_norm(layer, norm)
        self._add(0, Matrix.HEAD, VOCABULARY, d, has_bias=False)
        self._add(0, Matrix.EMBEDDING, VOCABULARY, d, has_bias=False)
        cosines, sines = rope_table(torch.arange(N_POSITIONS), shape.d_head, THETA, torch.float32)
        half = shape.d_head // 2
        self.native.set_rope(cosines[:, :half], sines[:, half:])
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
        return out.double()

    def _norm(self, layer: int, which: Norm, x: Tensor) -> Tensor:
        rms = (x.square().mean(-1, keepdim=True) + self.shape.epsilon).sqrt()
        return x / rms * self._norms[layer, which].double()

    def reference(self, x: Tensor) -> Tensor:
        """All layers in float64; products round to 8 bits, the cache to bfloat16."""
        shape, n = self.shape, len(x)
        rope = rope_table(torch.arange(n), shape.d_head, THETA, torch.float64)
        x = x.double()
        for layer in range(shape.n_layers):
            normed = self._norm(layer, Norm.ATTENTION, x)
            heads = [
                self._product(layer, which, normed).view(1, n, -1, shape.d_head).transpose(1, 2)
                for which in (Matrix.Q, Matrix.K, Matrix.V)
            ]
            q = (apply_rope(heads[0], *rope) / shape.d_head**0.5).bfloat16().double()
            k, v = (t.bfloat16().double() for t in (apply_rope(heads[1], *rope), heads[2]))
            repeats = shape.n_heads // shape.n_kv_heads
            k, v = (t.repeat_interleave(repeats, 1) for t in (k, v))
            scores = q @ k.transpose(2, 3)
            scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
            mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, -1)
            x = x + self._product(layer, Matrix.O, mixed)
            normed = self._norm(layer, Norm.FEED_FORWARD, x)
            gates = torch.nn.functional.silu(self._product(layer, Matrix.GATE, normed))
            x = x + self._product(
                layer, Matrix.DOWN, gates * self._product(layer, Matrix.UP, normed)
            )
        return x

    def logits(self, x: Tensor) -> Tensor:
        """In float64 from what `reference` returns."""
        return self._product(0, Matrix.HEAD, self._norm(0, Norm.LAST, x.double()))

    def embeddings(self, n_tokens: int) -> Tensor:
        """Random ones."""
        return self._random(n_tokens, self.shape.d_model)


class Cache:
    """Pages in no order; what was never written is no number."""

    def __init__(self, shape: Shape, n_pages: int) -> None:
        size = (n_pages, shape.n_kv_heads, PAGE, shape.d_head)
        self.pages = Pages(
            keys=[torch.full(size, torch.nan).bfloat16() for _ in range(shape.n_layers)],
            values=[torch.full(size, torch.nan).bfloat16() for _ in range(shape.n_layers)],
            page_stride=shape.n_kv_heads * PAGE * shape.d_head,
            head_stride=PAGE * shape.d_head,
            n_pages=n_pages,
        )


def run(
    decoder: Decoder, cache: Cache, parts: Sequence[tuple[Tensor, int, Sequence[int]]]
) -> list[Tensor]:
    """Run new tokens of some sequences (embeddings, earlier tokens, pages) in one pass."""
    x = torch.cat([x for x, _, _ in parts])
    new = [NewTokens(count=len(x), length=n, pages=pages) for x, n, pages in parts]
    decoder.native.set_cache(cache.pages)
    got = decoder.native.forward(new, embeddings=x)
    return list(got.split([len(x) for x, _, _ in parts]))


@pytest.fixture(params=native.levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    native.use_level(request.param)
    yield request.param
    native.use_level(BEST)
    native.use_threads(1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("n_tokens", [1, 40, 700])
def test_float64(level: str, shape: Shape, n_tokens: int) -> None:
    decoder = Decoder(shape, seed=n_tokens)
    x = decoder.embeddings(n_tokens)
    native.use_threads(2)
    (got,) = run(decoder, Cache(shape, 12), [(x.clone(), 0, (*range(1, 12), 0))])
    wanted = decoder.reference(x)
    errors = (got - wanted).norm(dim=1) / wanted.norm(dim=1)
    # Weights are rounded to bfloat16 before they meet the values.
    assert float(errors.median()) < 2e-3
    assert float(errors.max()) < 2e-2
    logits = decoder.native.logits(got, VOCABULARY)
    assert torch.allclose(logits.double(), decoder.logits(got), rtol=1e-4, atol=1e-4)


def test_nothing_around_a_token_changes_its_bits(level: str) -> None:
    """Chunks, threads, neighbours, where pages lie and who shares them."""
    shape, n = SHAPES[2], 1_400
    decoder = Decoder(shape, seed=3)
    x = decoder.embeddings(n)
    whole_cache, cache = Cache(shape, 22), Cache(shape, 26)
    (wanted,) = run(decoder, whole_cache, [(x.clone(), 0, range(22))])
    native.use_threads(2)
    pages = (*range(23, 12, -1), *range(11))
    sizes = (1, 255, 1, 3, 100, 664, 370, 5, 1)
    done = 0
    for size in sizes:
        (got,) = run(decoder, cache, [(x[done : done + size].clone(), done, pages)])
        assert torch.equal(got, wanted[done : done + size])
        done += size
    assert done == n
    # Another sequence continues the first pages; a third one runs beside both.
    other = decoder.embeddings(30)
    shared = (*pages[:5], 24)
    alone = Cache(shape, 6)
    start = 5 * PAGE
    run(decoder, alone, [(x[:start].clone(), 0, range(6))])
    (expected,) = run(decoder, alone, [(other.clone(), start, range(6))])
    third = decoder.embeddings(4)
    got_other, again, _ = run(
        decoder,
        cache,
        [(other.clone(), start, shared), (x[-1:].clone(), n - 1, pages), (third, 0, (25,))],
    )
    assert torch.equal(got_other, expected)
    assert torch.equal(again[0], wanted[-1])


def test_token_ids_become_rows_of_the_embedding(level: str) -> None:
    shape = SHAPES[0]
    decoder = Decoder(shape, seed=1)
    ids = [3, 49, 0, 17, 17]
    table = decoder.matrix(Matrix.EMBEDDING).unpack()
    (wanted,) = run(decoder, Cache(shape, 1), [(table[ids].clone(), 0, (0,))])
    new = [NewTokens(count=5, length=0, pages=(0,))]
    assert torch.equal(decoder.native.forward(new, token_ids=ids), wanted)
    for wrong in ([0, 1, 2, 3, 50], [0, -1, 2, 3, 4], [1, 2]):
        with pytest.raises(ValueError, match=r"forward pass|token ids"):
            decoder.native.forward(new, token_ids=wrong)


def test_wrong_calls_are_refused() -> None:
    shape = SHAPES[0]
    decoder = Decoder(shape, seed=0)
    x = decoder.embeddings(3)
    cache = Cache(shape, 24)
    for wrong in (
        (0, (24,)),
        (0, (-1,)),
        (PAGE - 1, (0,)),
        (-1, (0,)),
        (0, ()),
        (N_POSITIONS - 2, range(24)),
    ):
        with pytest.raises(ValueError, match="forward pass"):
            run(decoder, cache, [(x, *wrong)])
    small = Pages(
        keys=cache.pages.keys,
        values=cache.pages.values,
        page_stride=cache.pages.page_stride,
        head_stride=cache.pages.head_stride,
        n_pages=25,
    )
    cache.pages = small
    with pytest.raises(ValueError, match="needed"):
        run(decoder, cache, [(x, 0, (0,))])
    with pytest.raises(ValueError, match="shape"):
        NativeModel(Shape(n_layers=1, d_model=65, n_heads=2, n_kv_heads=1, d_head=32, d_ff=64,
                          epsilon=1e-5))  # fmt: skip


def test_the_library_checks_for_itself() -> None:
    found = library()
    assert not found.ds_model_new(0, 64, 2, 1, 32, 64, 1e-5)
    assert not found.ds_model_new(1, 64, 3, 2, 32, 64, 1e-5)
    model = found.ds_model_new(1, 64, 2, 1, 32, 64, 1e-5)
    norm = torch.ones(64)
    assert found.ds_model_set_norm(model, 1, 0, norm.data_ptr())
    assert found.ds_model_set_norm(model, 0, 3, norm.data_ptr())
    assert found.ds_model_set_matrix(model, 0, 0, 0, 64, 64, 64, None) == 0
    assert found.ds_model_set_matrix(model, 0, 0, 0, 64, 32, 64, None)
    assert found.ds_model_set_matrix(model, 0, 9, 0, 64, 64, 64, None)
    assert found.ds_model_set_matrix(model, 0, 0, 0, 64, 64, 63, None)
    assert found.ds_model_forward(model, None, norm.data_ptr())
    assert found.ds_model_forward(model, ctypes.byref(ctypes.c_int64(1)), None)
    assert found.ds_model_head(model, 1, norm.data_ptr(), norm.data_ptr()), "it has no head"
    found.ds_model_free(model)
