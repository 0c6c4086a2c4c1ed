"""The cache that decides what is seen, in a whole model."""

from dataclasses import replace

import pytest
import torch

from deepseek.core.errors import ConfigError
from deepseek.model.cache import DenseCache
from deepseek.model.hierarchical import HierarchicalCache, choose_hierarchy
from deepseek.model.transformer import Transformer
from deepseek.ops.hierarchical import PAGE, Hierarchy
from tiny_checkpoint import tiny_config

SMALL = Hierarchy(sinks=64, window=64, recall=128, dense=0, reach=100_000, fusion=0.0)


@pytest.fixture(scope="module")
def model() -> Transformer:
    made = Transformer(tiny_config()).double()
    made.initialise(3)
    return made.requires_grad_(False)


def read(model: Transformer, cache: DenseCache, ids: torch.Tensor, *sizes: int) -> torch.Tensor:
    parts = ids.split(list(sizes) or [ids.shape[1]], 1)
    return torch.cat([model(part, cache) for part in parts], 1)


def cache_of(model: Transformer, hierarchy: Hierarchy) -> HierarchicalCache:
    device = torch.device("cpu")
    return HierarchicalCache(model.config, hierarchy, dtype=torch.float64, device=device)


def random_ids(model: Transformer, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(model.config.vocab_size, (1, n), generator=generator)


@pytest.mark.parametrize(
    "hierarchy", [replace(SMALL, recall=64 * PAGE), replace(SMALL, dense=12 * PAGE)]
)
def test_all_recalled_or_below_the_limit_is_dense(model: Transformer, hierarchy: Hierarchy) -> None:
    ids = random_ids(model, 10 * PAGE + 9)
    wanted = model(ids)
    got = read(model, cache_of(model, hierarchy), ids, 3 * PAGE + 5, 7 * PAGE, 4)
    assert torch.allclose(got, wanted)


def test_chunks_of_whole_pages_change_nothing(model: Transformer) -> None:
    ids = random_ids(model, 12 * PAGE)
    whole = read(model, cache_of(model, SMALL), ids)
    parts = read(model, cache_of(model, SMALL), ids, PAGE, 4 * PAGE, 7 * PAGE)
    assert torch.allclose(whole, parts)
    assert not torch.allclose(whole, model(ids))


@pytest.mark.parametrize("length", [0, 5, 4 * PAGE, 8 * PAGE - 1])
def test_cut_and_read_again(model: Transformer, length: int) -> None:
    ids = random_ids(model, 9 * PAGE)
    cache = cache_of(model, SMALL)
    read(model, cache, random_ids(model, 9 * PAGE + 3))
    cache.truncate(0)
    read(model, cache, ids)
    cache.truncate(length)
    start = length // PAGE * PAGE
    cache.truncate(start)
    again = read(model, cache, ids[:, start:])
    assert torch.allclose(again, read(model, cache_of(model, SMALL), ids)[:, start:])


def test_fusion_of_nothing_changes_nothing(model: Transformer) -> None:
    ids = random_ids(model, 12 * PAGE)
    plain = read(model, cache_of(model, SMALL), ids)
    fused = cache_of(model, replace(SMALL, fusion=2.0))
    assert not torch.allclose(read(model, fused, ids), plain)


def test_the_window_decides_the_mode() -> None:
    config = tiny_config()
    trained = config.context_window
    assert choose_hierarchy(config, trained) is None
    beyond = choose_hierarchy(config, trained + 1)
    assert beyond is not None
    assert beyond.reach == trained // 2
    asked = choose_hierarchy(config, trained, "hierarchical")
    assert asked is not None
    assert asked.reach == trained
    with pytest.raises(ConfigError, match="dense attention"):
        choose_hierarchy(config, trained + 1, "dense")
