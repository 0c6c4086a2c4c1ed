"""Hierarchical attention in the native library against its reference, and what changes no bit."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from random_decoder import SHAPES, Cache, Decoder
from torch import Tensor

from deepseek.ops import native
from deepseek.ops.hierarchical import GROUP, NEVER, PAGE, Hierarchy
from deepseek.ops.native_model import NewTokens, Shape

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
WITHIN = Hierarchy(sinks=64, window=128, recall=192, dense=0, reach=100_000, fusion=0.0)
BEYOND = replace(WITHIN, reach=512)
KINDS = {
    "within": WITHIN,
    "beyond": BEYOND,
    "dense first": replace(WITHIN, dense=320),
    "fused": replace(WITHIN, fusion=0.5),
    "no sinks": replace(BEYOND, sinks=0),
    "no window": replace(WITHIN, window=0),
    "few looked at": replace(BEYOND, recall=64, look=64, fusion=1.0),
    "few scanned": replace(BEYOND, scan=384, fusion=1.0),
}


class Sequential:
    """One sequence in a decoder with memory."""

    def __init__(self, decoder: Decoder, hierarchy: Hierarchy, n_tokens: int) -> None:
        n_pages = -(-n_tokens // PAGE)
        self._native = decoder.native
        self._cache = Cache(decoder.shape, n_pages + 1)
        self._native.set_cache(self._cache.pages)
        self._native.set_memory(self._cache.memory)
        self._native.set_hierarchy(hierarchy)
        self._pages = list(range(n_pages, 0, -1))
        self._memory = list(range(1 + n_pages // GROUP))
        self.length, self.asks_from = 0, NEVER

    def read(self, x: Tensor) -> Tensor:
        """Append tokens."""
        new = NewTokens(
            count=len(x),
            length=self.length,
            pages=self._pages,
            memory=self._memory,
            asks_from=self.asks_from,
        )
        self.length += len(x)
        return self._native.forward([new], embeddings=x.clone())


def read_all(sequence: Sequential, x: Tensor, sizes: Sequence[int]) -> Tensor:
    return torch.cat([sequence.read(part) for part in x.split(list(sizes))])


@pytest.mark.parametrize(
    ("shape", "kind"),
    [*((SHAPES[0], kind) for kind in KINDS), *((s, "beyond") for s in SHAPES[1:])],
)
def test_float64(level: str, shape: Shape, kind: str) -> None:
    """Two chunks of whole pages, in the second of which tokens begin to ask, and the last ones."""
    n, few = (62 if kind == "few looked at" else 18) * PAGE + 20, 91
    decoder, hierarchy = Decoder(shape, seed=5), KINDS[kind]
    x = decoder.embeddings(n)
    native.use_threads(2)
    sequence = Sequential(decoder, hierarchy, n)
    sequence.asks_from = n - few
    got = read_all(sequence, x[:-13], (7 * PAGE, n - 13 - 7 * PAGE))
    trace = decoder.native.trace(True)
    got = torch.cat((got, sequence.read(x[-13:])))
    wanted = decoder.reference(x, hierarchy, few)
    errors = (got - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert float(errors.median()) < 4e-3
    # Where two pages get nearly the same votes, rounding decides: single rows may differ.
    assert float(errors.quantile(0.9)) < 3e-2
    recalled = decoder.recalled[0]
    assert recalled is not None
    assert torch.equal(trace[0], recalled.pages[:, -1].int())


def test_recalling_everything_is_dense(level: str) -> None:
    shape, n = SHAPES[0], 15 * PAGE + 3
    decoder = Decoder(shape, seed=2)
    x = decoder.embeddings(n)
    hierarchy = replace(WITHIN, recall=n // PAGE * PAGE)
    got = Sequential(decoder, hierarchy, n).read(x)
    dense = Sequential(decoder, replace(WITHIN, dense=n + PAGE), n).read(x)
    errors = (got - dense).norm(dim=1) / dense.norm(dim=1)
    assert float(errors.median()) < 2e-3
    assert float(errors.max()) < 2e-2


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_around_a_token_changes_its_bits(level: str, kind: str) -> None:
    """Chunks of whole pages, threads, and how many of the tokens that ask are checked at once."""
    shape, n = SHAPES[2], (62 if kind == "few looked at" else 20) * PAGE + 35
    decoder = Decoder(shape, seed=3)
    x = decoder.embeddings(n)
    one, other = (Sequential(decoder, KINDS[kind], n) for _ in range(2))
    one.asks_from = other.asks_from = n - 45
    wanted = one.read(x)
    native.use_threads(2)
    rest = (n - 20 * PAGE - 35 + 14 * PAGE + 2, 3, 1, 9, 19, 1)
    assert torch.equal(read_all(other, x, (PAGE, 5 * PAGE, *rest)), wanted)


def test_wrong_memory_is_refused() -> None:
    shape = SHAPES[0]
    decoder = Decoder(shape, seed=1)
    cache = Cache(shape, 5)
    decoder.native.set_cache(cache.pages)
    x = decoder.embeddings(3)
    new = NewTokens(count=3, length=0, pages=(0,), memory=(0,))
    with pytest.raises(ValueError, match="a forward pass"):
        decoder.native.forward([new], embeddings=x.clone())
    decoder.native.set_memory(cache.memory)
    decoder.native.set_hierarchy(WITHIN)
    for memory in ((5,), (-1,)):
        with pytest.raises(ValueError, match="a forward pass"):
            decoder.native.forward([replace(new, memory=memory)], embeddings=x.clone())
    decoder.native.forward([new], embeddings=x)
