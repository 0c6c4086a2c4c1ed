"""The oracle: with everything recalled it is dense attention, else it takes what weighs most."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from deepseek.model.cache import DenseCache
from deepseek.model.config import ModelConfig
from deepseek.model.transformer import Transformer
from deepseek.ops.attention import attention
from deepseek.ops.hierarchical import PAGE, Hierarchy
from oracle import OracleCache, attend_best

GROUPS, REPEATS, WIDTH = 2, 3, 16


def random_heads(seed: int, n_queries: int, n_keys: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    q = 3 * normal(GROUPS * REPEATS, n_queries, WIDTH)
    return q, normal(GROUPS, n_keys, WIDTH), normal(GROUPS, n_keys, WIDTH)


def by_hand(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: Hierarchy, together: int
) -> torch.Tensor:
    """Query by query and page by page."""
    n_keys, n_queries = keys.shape[1], q.shape[1]
    first, page = n_keys - n_queries, (n_keys - 1) // PAGE
    start, sinks = seen.window_start(page), seen.sinks_end(page)
    out = torch.empty_like(q)
    for group in range(GROUPS):
        heads = range(group * REPEATS, (group + 1) * REPEATS)
        scores = {
            (h, t): (keys[group, : first + t + 1] @ q[h, t]) / WIDTH**0.5
            for h in heads
            for t in range(n_queries)
        }
        for t in range(n_queries):
            block = [
                u for u in range(n_queries) if (first + u) // together == (first + t) // together
            ]
            shares = [scores[h, u].softmax(0) for h in heads for u in block]
            mass = [
                sum(float(share[p * PAGE : (p + 1) * PAGE].sum()) for share in shares)
                for p in range(sinks, start)
            ]
            ranked = sorted(range(len(mass)), key=lambda i: -mass[i])
            kept = {sinks + i for i in ranked[: seen.recall // PAGE]}
            kept |= {*range(sinks), *range(start, page + 1)}
            for h in heads:
                hidden = [s for s in range(first + t + 1) if s // PAGE not in kept]
                own = scores[h, t].clone()
                own[hidden] = -torch.inf
                out[h, t] = own.softmax(0) @ values[group, : first + t + 1]
    return out


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    together=st.sampled_from([1, 4]),
    sinks=st.sampled_from([0, 64]),
    window=st.sampled_from([64, 128]),
    n_queries=st.integers(1, 11),
    n_before=st.integers(0, 7 * PAGE),
)
def test_it_recalls_what_weighs_most(
    seed: int, together: int, sinks: int, window: int, n_queries: int, n_before: int
) -> None:
    n_before = n_before // PAGE * PAGE + min(n_before % PAGE, PAGE - n_queries)  # one page
    seen = Hierarchy(sinks=sinks, window=window, recall=128, dense=0, reach=10_000)
    q, keys, values = random_heads(seed, n_queries, n_before + n_queries)
    found = attend_best(q, keys, values, seen, together=together)
    torch.testing.assert_close(
        found, by_hand(q, keys, values, seen, together), rtol=1e-5, atol=1e-6
    )


def test_with_everything_recalled_it_is_dense_attention() -> None:
    q, keys, values = random_heads(5, 9, 6 * PAGE + 40)
    dense = attention(q[None], keys[None], values[None])[0]
    for recall in (4, 6):  # of four pages between sinks and window
        seen = Hierarchy(sinks=64, window=64, recall=recall * PAGE, dense=0, reach=10_000)
        found = attend_best(q, keys, values, seen, together=4)
        torch.testing.assert_close(found, dense, rtol=1e-5, atol=1e-6)
    seen = Hierarchy(sinks=64, window=64, recall=PAGE, dense=0, reach=10_000)
    assert not torch.allclose(attend_best(q, keys, values, seen, together=4), dense, atol=1e-3)


def test_beyond_the_reach_it_says_so() -> None:
    q, keys, values = random_heads(5, 1, 4 * PAGE)
    with pytest.raises(ValueError, match="reach"):
        attend_best(q, keys, values, Hierarchy(dense=0, reach=100), together=1)


def test_a_model_that_recalls_everything_is_dense_however_it_is_read() -> None:
    config = ModelConfig(
        family="llama",
        vocab_size=50,
        d_model=48,
        n_layers=2,
        n_heads=6,
        n_kv_heads=2,
        d_head=8,
        d_ff=64,
        context_window=1_024,
    )
    model = Transformer(config).double()
    model.initialise(3)
    ids = torch.randint(0, 50, (1, 6 * PAGE + 21), generator=torch.Generator().manual_seed(1))
    place = {"dtype": torch.float64, "device": torch.device("cpu")}
    with torch.inference_mode():
        dense = model(ids, DenseCache(config, **place))
        for recall, is_same in ((8, True), (1, False)):
            seen = Hierarchy(sinks=64, window=64, recall=recall * PAGE, dense=0, reach=1_024)
            whole = model(ids, OracleCache(config, seen, **place))
            assert torch.allclose(whole, dense, rtol=1e-5, atol=1e-6) == is_same
            cache = OracleCache(config, seen, **place)
            parts = [model(part, cache) for part in torch.split(ids, [100, 200, 105], 1)]
            torch.testing.assert_close(torch.cat(parts, 1), whole)
