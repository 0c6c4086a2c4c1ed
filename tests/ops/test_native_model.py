"""The native decoder against float64 at every instruction set, and what must not change a bit."""

import ctypes

import pytest
import torch
from random_decoder import N_POSITIONS, SHAPES, THETA, VOCABULARY, Cache, Decoder, run

from deepseek.ops import native
from deepseek.ops.hierarchical import PAGE
from deepseek.ops.native_model import Matrix, NativeModel, NewTokens, Pages, Shape, library

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")


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
    settled = decoder.is_settled(got)
    assert float(settled.float().mean()) > 0.8
    expected = decoder.logits(got)
    assert torch.allclose(logits.double()[settled], expected[settled], rtol=1e-4, atol=1e-4)


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


def test_threads_share_spans_or_stretches_without_a_changed_bit() -> None:
    """Few threads share spans here, more of them stretches, and a long chunk neither."""
    shape, n = SHAPES[2], 2_200
    decoder = Decoder(shape, seed=5)
    decoder.native.set_rope(THETA, n)
    x = decoder.embeddings(n)
    pages = range(35)
    cache = Cache(shape, len(pages))
    (wanted,) = run(decoder, cache, [(x.clone(), 0, pages)])
    for n_threads in (1, 2, 5):
        native.use_threads(n_threads)
        for n_last in (1, 2, 9):
            last = x[-n_last:].clone(), n - n_last, pages
            (got,) = run(decoder, cache, [last])
            assert torch.equal(got, wanted[-n_last:]), (n_threads, n_last)
    native.use_threads(1)


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
    cache = Cache(shape, 25)
    for wrong in (
        (0, (25,)),
        (0, (-1,)),
        (PAGE - 1, (0,)),
        (-1, (0,)),
        (0, ()),
        (N_POSITIONS - 2, range(25)),
    ):
        with pytest.raises(ValueError, match="forward pass"):
            run(decoder, cache, [(x, *wrong)])
    blocks, values = cache.pages.keys, cache.pages.values
    for keys in (
        blocks[1:],
        [*blocks[:-1], blocks[-1][:, 1:]],
        [*blocks[:-1], blocks[-1][..., 1:]],
        [*blocks[:-1], blocks[-1].float()],
        [],
    ):
        cache.pages = Pages(keys=keys, values=values)
        with pytest.raises(ValueError, match=r"block|pages are in"):
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
