"""Reading through the cache, in any portions, equals reading at once."""

import dataclasses

import pytest
import torch

from deepseek.model.cache import GROWTH, DenseCache
from deepseek.model.config import ModelConfig
from deepseek.model.transformer import Transformer
from tiny_checkpoint import tiny_config, tiny_model

CPU = torch.device("cpu")
QWEN_LIKE = dataclasses.replace(
    tiny_config(), family="qwen2", attention_bias=True, tied_embeddings=False, n_kv_heads=1
)


@pytest.fixture(scope="module", params=[tiny_config(), QWEN_LIKE], ids=["llama", "qwen2"])
def model(request: pytest.FixtureRequest) -> Transformer:
    return tiny_model(request.param)


def some_ids(batch: int, n_tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n_tokens)
    return torch.randint(tiny_config().vocab_size, (batch, n_tokens), generator=generator)


def fresh_cache(config: ModelConfig, batch: int = 1) -> DenseCache:
    return DenseCache(config, dtype=torch.float32, device=CPU, batch=batch)


@pytest.mark.parametrize("portions", [[60], [1] * 60, [20, 20, 20], [59, 1], [1, 58, 1], [7, 53]])
@torch.inference_mode()
def test_any_portions_equal_one_pass(model: Transformer, portions: list[int]) -> None:
    ids = some_ids(2, 60)
    whole = model(ids)
    cache = fresh_cache(model.config, batch=2)
    pieces = [model(part, cache) for part in ids.split(portions, 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-4, rtol=0)
    assert cache.length == 60


@torch.inference_mode()
def test_last_positions_only(model: Transformer) -> None:
    ids = some_ids(1, 20)
    whole = model(ids)
    for last in (0, 1, 5, 20):
        got = model(ids, last=last)
        assert got.shape == (1, last, model.config.vocab_size)
        torch.testing.assert_close(got, whole[:, 20 - last :], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_truncated_cache_reads_on_like_a_fresh_one(model: Transformer) -> None:
    ids, other = some_ids(1, 50), some_ids(1, 30)
    cache = fresh_cache(model.config)
    model(ids, cache)
    cache.truncate(20)
    assert cache.length == 20
    got = model(other, cache)
    wanted = model(torch.cat((ids[:, :20], other), 1))[:, 20:]
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_growth_keeps_what_was_stored() -> None:
    model = tiny_model(tiny_config())
    ids = some_ids(1, 2 * GROWTH + 10)
    cache = fresh_cache(model.config)
    model(ids[:, :GROWTH], cache)
    reserved = cache.n_bytes
    got = torch.cat([model(part, cache) for part in ids[:, GROWTH:].split(600, 1)], 1)
    assert cache.n_bytes > reserved
    torch.testing.assert_close(got, model(ids)[:, GROWTH:], atol=1e-3, rtol=0)


def test_bytes_reserved() -> None:
    config = tiny_config()
    cache = fresh_cache(config)
    assert cache.n_bytes == 0
    with torch.inference_mode():
        tiny_model(config)(some_ids(1, 5), cache)
    assert cache.n_bytes == 2 * config.n_layers * config.n_kv_heads * config.d_head * GROWTH * 4


@pytest.mark.parametrize("length", [-1, 6])
def test_truncating_to_what_is_not_there(length: int) -> None:
    cache = fresh_cache(tiny_config())
    cache.advance(5)
    with pytest.raises(ValueError, match="cache of 5 tokens"):
        cache.truncate(length)
