"""What hierarchical attention sees, and that seeing all of it is dense attention."""

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.ops.attention import attention_reference
from deepseek.ops.hierarchical import (
    DOUBLING,
    HALF,
    NEAR,
    PAGE,
    TOGETHER,
    Carried,
    Hierarchy,
    Turns,
    attend_page,
    looked_from,
    summarise,
)
from deepseek.ops.rope import apply_rope, rope_table

TURNS = Turns(theta=10_000.0)
SMALL = Hierarchy(sinks=64, window=128, recall=128, dense=0, reach=100_000, fusion=0.0)


def rotated(generator: torch.Generator, heads: int, n: int, width: int) -> Tensor:
    x = torch.randn(1, heads, n, width, generator=generator, dtype=torch.float64)
    return apply_rope(x, *rope_table(torch.arange(n), width, TURNS.theta, torch.float64))[0]


def nodes_of(keys: Tensor) -> Tensor:
    return summarise(keys[:, : keys.shape[1] // PAGE * PAGE])


def test_memory_nodes_of_a_page() -> None:
    keys = torch.randn(2, PAGE, 8, dtype=torch.float64)
    keys[1, 40] *= 20
    nodes = summarise(keys)
    assert nodes.shape == (2, 1, 4, 8)
    others = torch.cat((keys[1, HALF:40], keys[1, 41:]))
    assert torch.allclose(nodes[1, 0, 2], others.mean(0))
    assert torch.equal(nodes[1, 0, 3], keys[1, 40])


@pytest.mark.parametrize("seed", range(20))
def test_each_token_is_seen_once(seed: int) -> None:
    """With all scores equal, what comes out is the mean of what is seen."""
    generator = random.Random(seed)
    hierarchy = Hierarchy(
        sinks=PAGE * generator.randrange(4),
        window=PAGE * generator.randrange(4),
        recall=PAGE * generator.randrange(1, 12),
        dense=0,
        reach=generator.choice((64, 300, 10_000)),
        scan=PAGE * generator.randrange(12, 16),
    )
    n = generator.randrange(1, 20 * PAGE)
    n_tokens = generator.randint(1, (n - 1) % PAGE + 1)
    numbers = torch.Generator().manual_seed(seed)
    keys = rotated(numbers, 2, n, 8)
    values = torch.randn(2, n, 8, generator=numbers, dtype=torch.float64)
    q = torch.zeros(4, n_tokens, 8, dtype=torch.float64)
    asks = generator.choice((True, False))
    together = 1 if asks else TOGETHER
    mixed, recalled = attend_page(q, keys, values, nodes_of(keys), hierarchy, TURNS, asks=asks)
    page = (n - 1) // PAGE
    sinks, window = hierarchy.sinks_end(page), hierarchy.window_start(page)
    assert (recalled is None) == (sinks == window)
    for head in range(4):
        for t in range(n_tokens):
            own = n - n_tokens + t
            block = own // together - (n - n_tokens) // together
            chosen = [] if recalled is None else recalled.pages[head // 2, block].tolist()
            assert len(set(chosen)) == len(chosen) == min(hierarchy.recall // PAGE, window - sinks)
            assert all(sinks <= p < window for p in chosen)
            seen = [*range(sinks), *chosen, *range(window, page + 1)]
            positions = [p * PAGE + i for p in seen for i in range(PAGE)]
            mine = [p for p in positions if p <= own]
            assert torch.allclose(mixed[head, t], values[head // 2, mine].mean(0))


@pytest.mark.parametrize("n", [30, PAGE, 5 * PAGE + 7, 12 * PAGE])
def test_recalling_everything_is_dense(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    q, keys = rotated(generator, 6, n, 16), rotated(generator, 2, n, 16)
    values = torch.randn(2, n, 16, generator=generator, dtype=torch.float64)
    hierarchy = replace(SMALL, recall=100 * PAGE)
    own = n - (n - 1) // PAGE * PAGE
    got, _ = attend_page(q[:, -own:], keys, values, nodes_of(keys), hierarchy, TURNS)
    wanted = attention_reference(q[None], keys[None], values[None])[0, :, -own:]
    assert torch.allclose(got, wanted)


def test_what_matters_is_recalled() -> None:
    """One key that queries look for, far back, among others that are alike."""
    generator = torch.Generator().manual_seed(0)
    n, place = 40 * PAGE, 9 * PAGE + 50
    keys = 0.3 * rotated(generator, 1, n, 32)
    values = torch.randn(1, n, 32, generator=generator, dtype=torch.float64)
    q = rotated(generator, 1, n, 32)[:, -1:]
    keys[0, place] = 4 * q[0, 0]
    mixed, recalled = attend_page(q, keys, values, nodes_of(keys), SMALL, TURNS)
    assert recalled is not None
    assert 9 in recalled.pages[0, 0]
    assert int(recalled.votes.argmax()) + recalled.first == 9
    assert torch.allclose(mixed[0, 0], values[0, place], atol=0.2)


def test_of_too_many_pages_most_layers_look_where_the_one_before_found_something() -> None:
    """A key in a page whose memory nodes hide it is found where the layer before found one."""
    generator = torch.Generator().manual_seed(3)
    hierarchy = replace(SMALL, fusion=1.0, scan=256, recall=64)
    n, place = 60 * PAGE, 20 * PAGE + 7
    keys = rotated(generator, 2, n, 32)
    values = torch.randn(2, n, 32, generator=generator, dtype=torch.float64)
    q = rotated(generator, 2, n, 32)[:, -1:]
    keys[:, place] = 4 * q[:, 0]
    nodes = nodes_of(keys)
    nodes[:, 20] = 0.0
    own = torch.zeros(1, 56, dtype=torch.float64)
    own[0, 20 - 1] = 0.1
    before = Carried(torch.zeros_like(own), own)
    for layer, is_led in ((1, True), (2, True), (3, False)):
        _, recalled = attend_page(
            q, keys, values, nodes, hierarchy, TURNS, asks=True, before=before, layer=layer
        )
        assert recalled is not None
        assert recalled.own.shape[-1] == 56
        assert (recalled.pages == 20).any(-1).all() == is_led
        assert int((recalled.own > 0).sum(-1).max()) <= hierarchy.scanned_pages
    unfused = replace(hierarchy, fusion=0.0)
    _, recalled = attend_page(
        q, keys, values, nodes, unfused, TURNS, asks=True, before=before, layer=1
    )
    assert recalled is not None
    assert not (recalled.pages == 20).any()


def test_far_pages_are_looked_at_from_nearer_in_their_order() -> None:
    seen = [looked_from(distance) for distance in range(20_000)]
    assert seen[: NEAR + 1] == list(range(NEAR + 1))
    assert all(0 <= b - a <= 1 for a, b in pairwise(seen))
    assert [looked_from(NEAR << i) for i in range(11)] == [NEAR + i * DOUBLING for i in range(11)]


def test_moved_pages_stand_before_the_window() -> None:
    """Beyond the reach: the same as dense attention to the packed sequence."""
    generator = torch.Generator().manual_seed(1)
    n, width, heads = 30 * PAGE, 16, 2
    shape = (1, heads, n, width)
    plain_k, plain_q, values = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    hierarchy = replace(SMALL, reach=8 * PAGE)

    def turn(x: Tensor, positions: Tensor) -> Tensor:
        return apply_rope(x, *rope_table(positions, width, TURNS.theta, torch.float64))

    keys, q = (turn(x, torch.arange(n)) for x in (plain_k, plain_q))
    got, recalled = attend_page(
        q[0, :, -TOGETHER:], keys[0], values[0], nodes_of(keys[0]), hierarchy, TURNS
    )
    assert recalled is not None
    for head in range(heads):
        pages = [0, *recalled.pages[head, 0].tolist(), 27, 28, 29]
        seen = torch.cat([torch.arange(p * PAGE, (p + 1) * PAGE) for p in pages])
        packed = torch.arange(len(seen))
        one = slice(head, head + 1)
        wanted = attention_reference(
            *(turn(x[:, one, seen], packed) for x in (plain_q, plain_k)), values[:, one, seen]
        )
        assert torch.allclose(got[head], wanted[0, 0, -TOGETHER:])


def test_gradients_reach_what_is_seen() -> None:
    generator = torch.Generator().manual_seed(2)
    n = 10 * PAGE
    q, keys = rotated(generator, 2, n, 8), rotated(generator, 1, n, 8)
    values = torch.randn(1, n, 8, generator=generator, dtype=torch.float64)
    for x in (q, keys, values):
        x.requires_grad_()
    mixed, recalled = attend_page(q[:, -4:], keys, values, nodes_of(keys), SMALL, TURNS)
    mixed.square().sum().backward()
    assert recalled is not None
    assert values.grad is not None
    assert keys.grad is not None
    seen = values.grad[0].abs().sum(-1).reshape(-1, PAGE).sum(-1) > 0
    assert seen.nonzero()[:, 0].tolist() == [0, *recalled.pages[0, 0].tolist(), 7, 8, 9]


@pytest.mark.parametrize(
    "wrong", [{"window": 100}, {"recall": 0}, {"sinks": -64}, {"fusion": -1.0}]
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Hierarchy(**wrong)
