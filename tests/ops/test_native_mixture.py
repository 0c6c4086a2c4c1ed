"""Mixtures in the native decoder: against float64, and bit by bit in any company."""

import pytest
import torch
from random_decoder import SHAPES, Cache, Decoder, run

from deepseek.ops import native
from deepseek.ops.moe.native import NativeExperts
from deepseek.ops.native_model import Shape

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
RANKS = (16, 4, 9, 33, 1, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("n_tokens", [1, 300])
def test_float64(level: str, shape: Shape, n_tokens: int, dtype: torch.dtype) -> None:
    decoder = Decoder(shape, seed=n_tokens)
    x = decoder.embeddings(n_tokens)
    without = decoder.reference(x)
    decoder.add_experts(RANKS, dtype)
    native.use_threads(2)
    (got,) = run(decoder, Cache(shape, 12), [(x.clone(), 0, range(12))])
    wanted = decoder.reference(x)
    errors = (got - wanted).norm(dim=1) / wanted.norm(dim=1)
    if dtype is torch.float32:  # else what experts read is rounded, too
        assert float(errors[0]) < 1e-5
    # Others see what is rounded to bfloat16; a score that is nearly another's may choose another.
    assert float(errors.median()) < 5e-3
    assert float(errors.quantile(0.98)) < 3e-2
    assert float((wanted - without).norm() / without.norm()) > 0.1
    for load in decoder.loads():
        assert load.sum() == 2 * n_tokens
        assert load[-1] == 0


def test_no_company_changes_a_bit(level: str) -> None:
    """With experts and adapters, in one pass or alone, in any chunks and with any threads."""
    shape, n = SHAPES[2], 600
    decoder = Decoder(shape, seed=3)
    decoder.add_experts(RANKS, torch.bfloat16)
    numbers = [-1, decoder.native.add_adapter(decoder.adapter(5)), -1]
    inputs = [decoder.embeddings(n) for _ in numbers]
    tables = [range(10 * i, 10 * i + 10) for i in range(len(numbers))]
    alone, cache = Cache(shape, 30), Cache(shape, 30)
    wanted = [
        run(decoder, alone, [(x.clone(), 0, table, number)])[0]
        for x, table, number in zip(inputs, tables, numbers, strict=True)
    ]
    done = 0
    for size, n_threads in ((1, 2), (2, 1), (250, 2), (1, 5), (300, 2), (46, 1)):
        native.use_threads(n_threads)
        parts = [
            (x[done : done + size].clone(), done, table, number)
            for x, table, number in zip(inputs, tables, numbers, strict=True)
        ]
        for whole, got in zip(wanted, run(decoder, cache, parts), strict=True):
            assert torch.equal(got, whole[done : done + size])
        done += size
    assert done == n


def test_experts_of_another_shape_are_refused() -> None:
    decoder = Decoder(SHAPES[0], seed=1)
    decoder.add_experts(RANKS, torch.float32)
    own = decoder._experts[0]
    d, wide, n = SHAPES[0].d_model, SHAPES[0].d_ff, sum(RANKS)

    def experts(n_in: int, *n_outs: int, ranks: tuple[int, ...] = RANKS) -> NativeExperts:
        down, up = [torch.zeros(n, n_in)] * len(n_outs), [torch.zeros(n, k) for k in n_outs]
        return NativeExperts(ranks, down, up, is_low_rank=True)

    rules = decoder._rules
    hidden, down = experts(d, wide, wide), experts(wide, d)
    decoder.native.set_experts(0, (rules, own.gate), hidden, down)
    for layer, a, b in (
        (-1, hidden, down),
        (1, hidden, down),
        (0, down, down),
        (0, hidden, hidden),
        (0, experts(d, wide), down),
        (0, hidden, experts(d, wide)),
        (0, experts(d, wide, wide, ranks=(n,)), down),
        (
            0,
            NativeExperts((n,), [torch.zeros(2 * n, d)], [torch.zeros(n, wide)], is_low_rank=False),
            down,
        ),
    ):
        with pytest.raises(ValueError, match="experts of layer"):
            decoder.native.set_experts(layer, (rules, own.gate), a, b)
