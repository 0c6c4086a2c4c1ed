"""Adapters in the native decoder: against float64, and bit by bit in any company."""

import ctypes

import pytest
import torch
from random_decoder import SHAPES, Cache, Decoder, run

from deepseek.core.low_rank import LowRank
from deepseek.ops import native
from deepseek.ops.native_model import Matrix, Shape, _LowRank, library

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("n_tokens", "rank"), [(1, 16), (40, 5), (300, 33)])
def test_float64(level: str, shape: Shape, n_tokens: int, rank: int) -> None:
    decoder = Decoder(shape, seed=n_tokens)
    x, parts = decoder.embeddings(n_tokens), decoder.adapter(rank)
    number = decoder.native.add_adapter(parts)
    native.use_threads(2)
    (got,) = run(decoder, Cache(shape, 12), [(x.clone(), 0, range(12), number)])
    wanted, without = decoder.reference(x, adapter=parts), decoder.reference(x)
    errors = (got - wanted).norm(dim=1) / wanted.norm(dim=1)
    # Only what a token sees of others is rounded, to bfloat16: larger scores make that larger.
    assert float(errors[0]) < 1e-5
    assert float(errors.median()) < 5e-3
    assert float(errors.max()) < 3e-2
    assert float((wanted - without).norm() / without.norm()) > 0.1


@pytest.mark.parametrize("which", list(Matrix)[:7], ids=lambda which: which.name)
def test_each_matrix_alone(which: Matrix) -> None:
    shape = SHAPES[0]
    decoder = Decoder(shape, seed=which)
    x, parts = decoder.embeddings(5), decoder.adapter(4, which)
    number = decoder.native.add_adapter(parts)
    (got,) = run(decoder, Cache(shape, 1), [(x.clone(), 0, (0,), number)])
    wanted, without = decoder.reference(x, adapter=parts), decoder.reference(x)
    error = (got - wanted).norm() / wanted.norm()
    assert float(error) < 3e-3
    # The first token sees itself only, so that queries and keys change the others.
    assert float((wanted - without).norm() / without.norm()) > 3 * float(error)


def test_no_company_changes_a_bit(level: str) -> None:
    """Three adapters and none, in one pass or alone, in any chunks and with any threads."""
    shape, n = SHAPES[2], 600
    decoder = Decoder(shape, seed=3)
    ranks = (16, 40, 3)
    numbers = [-1, *(decoder.native.add_adapter(decoder.adapter(rank)) for rank in ranks)]
    only_one = decoder.native.add_adapter(decoder.adapter(8, Matrix.K, Matrix.UP))
    numbers.append(only_one)
    inputs = [decoder.embeddings(n) for _ in numbers]
    alone, cache = Cache(shape, 50), Cache(shape, 50)
    tables = [range(10 * i, 10 * i + 10) for i in range(len(numbers))]
    plain = Decoder(shape, seed=3)
    for x, table, number in zip(inputs, tables, numbers, strict=True):
        (wanted,) = run(decoder, alone, [(x.clone(), 0, table, number)])
        if number == -1:
            (untouched,) = run(plain, alone, [(x.clone(), 0, table)])
            assert torch.equal(untouched, wanted)
        x.wanted = wanted  # type: ignore[attr-defined]
    done = 0
    for size, n_threads in ((1, 2), (2, 1), (250, 2), (1, 5), (300, 2), (46, 1)):
        native.use_threads(n_threads)
        parts = [
            (x[done : done + size].clone(), done, table, number)
            for x, table, number in zip(inputs, tables, numbers, strict=True)
        ]
        for x, got in zip(inputs, run(decoder, cache, parts), strict=True):
            assert torch.equal(got, x.wanted[done : done + size])  # type: ignore[attr-defined]
        done += size
    assert done == n


def test_an_adapter_is_gone_once_it_is_removed() -> None:
    decoder = Decoder(SHAPES[0], seed=2)
    x, cache = decoder.embeddings(3), Cache(SHAPES[0], 1)
    first = decoder.native.add_adapter(decoder.adapter(2))
    second = decoder.native.add_adapter(decoder.adapter(2))
    decoder.native.remove_adapter(first)
    run(decoder, cache, [(x.clone(), 0, (0,), second)])
    third = decoder.native.add_adapter(decoder.adapter(2))
    assert third not in (first, second), "numbers are never given twice"
    for number in (first, 99, -2, 1 << 40):
        with pytest.raises(ValueError, match="forward pass"):
            run(decoder, cache, [(x.clone(), 0, (0,), number)])
        with pytest.raises(ValueError, match="adapter"):
            decoder.native.remove_adapter(number)


def test_what_does_not_fit_is_refused() -> None:
    shape = SHAPES[0]
    decoder = Decoder(shape, seed=0)
    down, up = torch.zeros(4, 64), torch.zeros(128, 4)
    add = decoder.native.add_adapter
    for parts in (
        {(0, Matrix.Q): LowRank(down[:, 1:], up, 1.0)},
        {(0, Matrix.Q): LowRank(down, up[1:], 1.0)},
        {(0, Matrix.O): LowRank(down, up, 1.0)},
        {(1, Matrix.Q): LowRank(down, up, 1.0)},
        {(0, Matrix.Q): LowRank(down, up, float("nan"))},
        {(0, Matrix.Q): LowRank(down + torch.inf, up, 1.0)},
        {(0, Matrix.Q): LowRank(down, up + 1, 3.4e38)},
        {(0, Matrix.Q): LowRank(torch.zeros(1_025, 64), torch.zeros(128, 1_025), 1.0)},
        {},
    ):
        with pytest.raises(ValueError, match=r"adapter|for Q|for O"):
            add(parts)
    number = add({(0, Matrix.Q): LowRank(down, up, 1.0)})
    assert number == 0, "what was refused took no number"


def test_the_library_checks_for_itself() -> None:
    found = library()
    model = found.ds_model_new(2, 64, 2, 1, 32, 64, 1e-5)
    numbers = torch.zeros(64 * 64)
    place, number = numbers.data_ptr(), ctypes.c_int64(7)

    def add(*parts: tuple[object, ...], count: int | None = None) -> int:
        rows = (_LowRank * max(1, len(parts)))(*(_LowRank(*part) for part in parts))
        given = len(parts) if count is None else count
        return int(found.ds_model_add_adapter(model, given, rows, ctypes.byref(number)))

    good = (0, 0, 4, place, place, 1.0)
    assert add(good), "its matrix is not there yet"
    assert found.ds_model_set_matrix(model, 0, 0, 0, 64, 64, 64, None) == 0
    assert add(good) == 0
    assert number.value == 0
    for wrong in (
        (-1, 0, 4, place, place, 1.0),
        (2, 0, 4, place, place, 1.0),
        (0, 7, 4, place, place, 1.0),
        (0, -1, 4, place, place, 1.0),
        (0, 0, 0, place, place, 1.0),
        (0, 0, -4, place, place, 1.0),
        (0, 0, 1 << 60, place, place, 1.0),
        (0, 0, 4, None, place, 1.0),
        (0, 0, 4, place, None, 1.0),
        (0, 0, 4, place, place, float("inf")),
    ):
        assert add(wrong), wrong
    assert add(good, good), "twice the same matrix"
    assert add(good, count=0)
    assert add(good, count=-1)
    assert add(good, count=1 << 40)
    assert found.ds_model_add_adapter(model, 1, None, ctypes.byref(number))
    assert found.ds_model_add_adapter(None, 1, None, None)
    assert found.ds_model_remove_adapter(None, 0)
    assert found.ds_model_remove_adapter(model, 1)
    assert found.ds_model_remove_adapter(model, 0) == 0
    found.ds_model_free(model)
