"""Cold pages in the native library against their reference, and what changes no bit."""

import ctypes
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from cold_sequence import Sequential, read_all
from random_decoder import BLOCK, SHAPES, Decoder
from torch import Tensor

from deepseek.ops import native
from deepseek.ops.cold import (
    SLICE,
    ColdBits,
    ColdTier,
    Quantised,
    page_bytes,
    quantise_keys,
    quantise_values,
)
from deepseek.ops.hierarchical import PAGE, Hierarchy
from deepseek.ops.native_model import NewTokens, Shape, library

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
TIER = ColdTier(bits=4, sinks=64, window=128)
WITHIN = Hierarchy(sinks=64, window=128, recall=192, dense=0, reach=100_000, fusion=0.0)
KINDS = {
    "dense": None,
    "within": WITHIN,
    "beyond": replace(WITHIN, reach=512),
    "dense first": replace(WITHIN, dense=640, fusion=0.5),
}


def packed(codes: Tensor, bits: ColdBits) -> Tensor:
    """Codes in the order of a page, as bytes."""
    if bits == 8:
        return codes.flatten()
    low, high = codes.reshape(-1, 2, 32).unbind(1)
    return (low | high << 4).flatten()


def cold_page(parts: Sequence[tuple[Tensor, Quantised]], bits: ColdBits) -> Tensor:
    """Rows of codes in their order, and the ranges of each."""
    codes = torch.cat([packed(codes, bits) for codes, _ in parts])
    ranges = [torch.cat((q.least.view(-1, 2), q.step.view(-1, 2)), 1).flatten() for _, q in parts]
    return torch.cat((codes, torch.cat(ranges).contiguous().view(torch.uint8)))


def wanted_pages(keys: Tensor, values: Tensor, bits: ColdBits) -> tuple[Tensor, ...]:
    """Cold pages of one head's exact ones, and exact ones of these."""
    width = keys.numel() // PAGE
    pairs = keys.view(width // 2, PAGE, 2)
    (q,) = [quantise_keys(pairs.permute(1, 0, 2).reshape(PAGE, width), bits)]
    in_order = q.codes.view(PAGE, -1, 2).permute(1, 0, 2)
    numbers = q.numbers().view(PAGE, -1, 2).permute(1, 0, 2).flatten()
    cold_keys = cold_page([(in_order, q)], bits)
    parts, expanded = [], []
    for part in values.split(SLICE * PAGE):
        rows = part.view(PAGE // 2, -1, 2).permute(0, 2, 1).reshape(PAGE, -1)
        (q,) = quantise_values(rows, bits)
        parts.append((q.codes.view(PAGE // 2, 2, -1).permute(0, 2, 1), q))
        expanded.append(q.numbers().view(PAGE // 2, 2, -1).permute(0, 2, 1).flatten())
    return cold_keys, cold_page(parts, bits), numbers, torch.cat(expanded)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pages_to_the_last_bit(level: str, shape: Shape, bits: ColdBits) -> None:
    """A page that was completed in two passes, and one in one; there and back."""
    n = 2 * PAGE + 5
    decoder = Decoder(shape, seed=bits)
    sequence = Sequential(decoder, replace(TIER, bits=bits), None, n)
    read_all(sequence, decoder.embeddings(n), (40, n - 40))
    spare = 0
    for page in range(2):
        hot, cold = sequence.cache.pages.of(sequence.pages[page]), sequence.cache.cold
        found = cold.of(sequence.cold[page])
        decoder.native.expand(sequence.cold[page], spare)
        again = sequence.cache.pages.of(spare)
        for layer in range(shape.n_layers):
            for head in range(shape.n_kv_heads):
                keys, values = (t[layer, head] for t in hot)
                wanted = wanted_pages(keys, values, bits)
                for got, expected in zip(found, wanted[:2], strict=True):
                    assert torch.equal(got[layer, head, : len(expected)], expected)
                for got, expected in zip(again, wanted[2:], strict=True):
                    assert torch.equal(got[layer, head], expected)
    untouched = set(range(len(cold.keys) * BLOCK)) - set(sequence.cold[:2])
    assert all((t == 255).all() for page in untouched for t in cold.of(page))


@pytest.mark.parametrize(
    ("shape", "kind", "bits"),
    [
        (SHAPES[0], "dense", 4),
        (SHAPES[0], "dense", 8),
        (SHAPES[0], "within", 4),
        (SHAPES[0], "beyond", 8),
        (SHAPES[0], "dense first", 4),
        (SHAPES[1], "dense", 8),
        (SHAPES[2], "beyond", 4),
    ],
)
def test_float64(level: str, shape: Shape, kind: str, bits: ColdBits) -> None:
    """Two chunks of whole pages, in the second of which tokens begin to ask, and the last ones."""
    n, few = 18 * PAGE + 20, 91
    decoder, hierarchy, tier = Decoder(shape, seed=5), KINDS[kind], replace(TIER, bits=bits)
    x = decoder.embeddings(n)
    sequence = Sequential(decoder, tier, hierarchy, n)
    sequence.asks_from = n - few
    got = read_all(sequence, x, (7 * PAGE, n - 13 - 7 * PAGE, 13))
    wanted = decoder.reference(x, hierarchy, few, tier)
    errors = (got - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert float(errors.median()) < 4e-3
    # Where two pages get nearly the same votes, rounding decides: single rows may differ.
    assert float(errors.quantile(0.9)) < 3e-2
    everything = replace(tier, window=2_048)
    other = Sequential(decoder, everything, hierarchy, n)
    other.asks_from = n - few
    exact = other.read(x)
    apart = ((got - exact).norm(dim=1) / exact.norm(dim=1))[4 * PAGE :].median()
    assert float(apart) > (2 if bits == 4 else 1) * float(errors.median()), "codes are read"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_around_a_token_changes_its_bits(level: str, kind: str) -> None:
    """Chunks, threads, how many tokens are checked at once, and a neighbour."""
    shape, n = SHAPES[2], 20 * PAGE
    decoder = Decoder(shape, seed=3)
    x, tail = decoder.embeddings(n), decoder.embeddings(12)
    one = Sequential(decoder, TIER, KINDS[kind], n + 12)
    one.asks_from = n - 6
    wanted = read_all(one, x, (n,))
    wanted_tail = one.read(tail)
    native.use_threads(2)
    chunks = [(PAGE, 5 * PAGE, 14 * PAGE)]
    if kind == "dense":
        chunks.append((1, 63, 65, 100, 400, n - 629))
    for sizes in chunks:
        other = Sequential(decoder, TIER, KINDS[kind], n + 12)
        other.asks_from = n - 6
        assert torch.equal(read_all(other, x, sizes), wanted)
        assert torch.equal(read_all(other, tail[:9], (1, 3, 5)), wanted_tail[:9])
    third = NewTokens(count=3, length=0, pages=(0,))
    both = torch.cat((decoder.embeddings(3), tail[9:]))
    got = decoder.native.forward([third, other.new(3)], embeddings=both)
    assert torch.equal(got[3:], wanted_tail[9:])


def test_what_was_kept_of_another_sequence_is_not_read() -> None:
    """Expanded pages are kept by threads: other numbers in the same places must not be missed."""
    shape, n = SHAPES[0], 12 * PAGE
    decoder = Decoder(shape, seed=8)
    sequence = Sequential(decoder, TIER, WITHIN, n + 8)
    first, second, tail = (decoder.embeddings(count) for count in (n, n, 8))
    sequence.read(first)
    sequence.read(tail)
    sequence.length = 0
    sequence.read(second)
    got = sequence.read(tail)
    fresh = Sequential(decoder, TIER, WITHIN, n + 8)
    fresh.read(second)
    assert torch.equal(got, fresh.read(tail))


def test_wrong_calls_are_refused() -> None:
    shape, n = SHAPES[0], 9 * PAGE
    decoder = Decoder(shape, seed=1)
    x = decoder.embeddings(n)
    sequence = Sequential(decoder, TIER, None, n + 3)
    read_all(sequence, x, (n,))
    right, tail = sequence.new(3), decoder.embeddings(3)
    before = [t.clone() for t in (*sequence.cache.cold.keys, *sequence.cache.cold.values)]
    many = len(sequence.cache.cold.keys) * BLOCK
    gone = list(right.pages)
    for page in (0, 7, 9):
        wrong = [-1 if i == page else number for i, number in enumerate(gone)]
        with pytest.raises(ValueError, match="a forward pass"):
            decoder.native.forward([replace(right, pages=wrong)], embeddings=tail.clone())
    for cold in (right.cold[:-1], [*right.cold[:-1], many], [-1, *right.cold[1:]]):
        with pytest.raises(ValueError, match="a forward pass"):
            decoder.native.forward([replace(right, cold=cold)], embeddings=tail.clone())
    with pytest.raises(ValueError, match="a forward pass"):  # without cold pages all must be there
        decoder.native.forward([replace(right, cold=())], embeddings=tail.clone())
    for wrong_pages in ((-1, 0), (many, 0), (0, -1), (0, many)):
        with pytest.raises(ValueError, match="a cold page"):
            decoder.native.expand(*wrong_pages)
    after = (*sequence.cache.cold.keys, *sequence.cache.cold.values)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    decoder.native.forward([right], embeddings=tail)
    with pytest.raises(ValueError, match="block"):
        decoder.native.set_cold(sequence.cache.cold, replace(TIER, bits=8))
    with pytest.raises(ValueError, match="pages are in"):
        decoder.native.set_cold(sequence.cache.pages, TIER)
    other = Decoder(shape, seed=1)
    other.native.set_cache(sequence.cache.pages)
    with pytest.raises(ValueError, match="a forward pass"):
        other.native.forward([right], embeddings=tail)
    with pytest.raises(ValueError, match="a cold page"):
        other.native.expand(0, 0)


class _Described(ctypes.Structure):
    """`ds_pages`, for what Python's side would not let through."""

    _fields_ = tuple(
        (name, ctypes.POINTER(ctypes.c_void_p) if name in ("keys", "values") else ctypes.c_int64)
        for name in "n_blocks block_pages keys values layer head_0 head_1".split()
    )


def test_the_library_checks_for_itself() -> None:
    found = library()
    shape = SHAPES[0]
    model = found.ds_model_new(1, 64, 4, 2, 32, 96, 1e-5)
    size = page_bytes(4, shape.d_head)
    memory = torch.zeros(4 * size, dtype=torch.uint8)
    good = (ctypes.c_void_p * 1)(memory.data_ptr())
    odd = (ctypes.c_void_p * 1)(memory.data_ptr() + 1)
    none = (ctypes.c_void_p * 1)(None)
    right = (1, 2, good, good, 4 * size, 2 * size, size)

    def set_cold(*fields: object, bits: int = 4, sinks: int = 1, window: int = 2) -> int:
        described = ctypes.byref(_Described(*fields))
        return int(found.ds_model_set_cold(model, bits, sinks, window, described))

    assert not set_cold(*right)
    for place, wrong in (
        (0, 0), (0, -1), (0, 1 << 40), (1, 0), (1, 1 << 62), (2, none), (2, odd), (2, None),
        (3, none), (3, odd), (3, None), (4, size - 2), (5, size - 2), (6, size - 2), (6, size + 1),
        (6, -size),
    ):  # fmt: skip
        fields = list(right)
        fields[place] = wrong
        assert set_cold(*fields), f"field {place}: {wrong}"
    assert set_cold(*right, bits=5)
    assert set_cold(*right, bits=8), "pages of 8 bits are larger"
    assert set_cold(*right, sinks=-1)
    assert set_cold(*right, window=-1)
    assert found.ds_model_set_cold(model, 4, 1, 2, None)
    assert found.ds_model_set_cold(None, 4, 1, 2, ctypes.byref(_Described(*right)))
    assert found.ds_model_expand(None, 0, 0)
    assert found.ds_model_expand(model, 0, 0), "it has no pages to write to"
    assert found.ds_model_set_cache(model, None)
    assert found.ds_model_set_memory(model, None)
    assert not memory.any()
    found.ds_model_free(model)
