"""A whole model with a learned memory: in one pass, step by step, fused, and in training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.model.block import Block
from deepseek.model.config import load_preset
from deepseek.model.memory import Memory, MemoryCache
from deepseek.model.transformer import Transformer
from deepseek.ops.memory import MemoryConfig
from tiny_checkpoint import tiny_config

SMALL = MemoryConfig(window=32, node=16, recalled=2, sinks=1)


def model_of(memory: MemoryConfig = SMALL, noise: float = 0.3) -> Transformer:
    """Random weights; the memory's, too, as if it had been trained."""
    config = replace(tiny_config(), attention="hierarchical", memory=memory)
    model = Transformer(config).double()
    model.initialise(3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".memory." in name:
                p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype), alpha=noise)
            elif "norm" not in name:
                p.mul_(6)
    return model


def memories(model: Transformer) -> list[Memory]:
    found = []
    for block in model.blocks:
        assert isinstance(block, Block)
        assert block.attention.memory is not None
        found.append(block.attention.memory)
    return found


def ids_of(n: int, batch: int = 1) -> Tensor:
    return torch.randint(512, (batch, n), generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("sizes", [[1] * 90, [40, 1, 1, 30, 18], [64, 26]])
def test_one_pass_equals_step_by_step(sizes: list[int]) -> None:
    model = model_of().requires_grad_(False)
    ids = ids_of(90, batch=2)
    cache = MemoryCache(model.config, torch.device("cpu"))
    steps = torch.cat([model(part, cache) for part in ids.split(sizes, 1)], 1)
    assert torch.allclose(steps, model(ids))


def test_what_comes_later_changes_nothing_unless_it_is_an_encoder() -> None:
    ids = ids_of(100)
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 512
    with torch.no_grad():
        model = model_of()
        assert torch.allclose(model(ids)[:, :-1], model(changed)[:, :-1])
        both = model_of(replace(SMALL, encoder=True))
        first = both(ids)[:, 0], both(changed)[:, 0]
        assert not torch.allclose(*first)
        cache = MemoryCache(both.config, torch.device("cpu"))
        both(ids, cache)
        with pytest.raises(ValueError, match="one pass"):
            both(ids, cache)


def test_recalling_everything_is_the_dense_model() -> None:
    model = model_of(replace(SMALL, recalled=100), noise=0.0)
    dense = Transformer(tiny_config()).double()
    dense.load_state_dict({k: v for k, v in model.state_dict().items() if ".memory." not in k})
    ids = ids_of(120)
    with torch.no_grad():
        assert torch.allclose(model(ids), dense(ids))
        few = model_of(noise=0.0)
        assert not torch.allclose(few(ids), dense(ids))


def test_fusion_of_zero_is_no_fusion_and_more_is_felt() -> None:
    model = model_of().requires_grad_(False)
    ids = ids_of(100)
    fused = model(ids)
    for memory in memories(model)[1:]:
        memory.fuse_nodes.zero_()
        memory.fuse_scores.zero_()
    zero = model(ids)
    assert not torch.allclose(zero, fused)
    # The same without any path between layers: each layer is given a cache of its own.
    without = MemoryCache(model.config, torch.device("cpu"))
    layer = without.layer
    without.layer = lambda number: (layer(number)[0], None)  # type: ignore[method-assign]
    assert torch.equal(model(ids, without), zero)


def test_a_fresh_memory_is_plain_means() -> None:
    model = model_of(noise=0.0).requires_grad_(False)
    cache = MemoryCache(model.config, torch.device("cpu"))
    model(ids_of(64), cache)
    own, _ = cache.layer(2)
    assert own.bank is not None
    assert own.values is not None
    assert torch.allclose(own.bank.values, own.values.unflatten(2, (-1, 16)).mean(3))


def test_gradients_reach_every_part_and_training_lowers_the_loss() -> None:
    """A copy from before the window: only recalled blocks and memory can tell what comes next."""
    model = model_of(noise=0.0).float()
    adam = torch.optim.Adam(model.parameters(), lr=2e-3)
    ids = ids_of(60).repeat(1, 2)
    losses = []
    for _ in range(12):
        logits = model(ids)[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_the_config_says_so(tmp_path: Path) -> None:
    preset = Path(__file__).parents[2] / "configs" / "r1-tiny.toml"
    path = tmp_path / "memory.toml"
    text = preset.read_text(encoding="utf-8").replace(
        "[model]", '[memory]\nnode = 16\nwindow = 32\n\n[model]\nattention = "hierarchical"'
    )
    path.write_text(text, encoding="utf-8")
    config = load_preset(path)
    assert (config.memory.node, config.memory.window, config.memory.recalled) == (16, 32, 8)
    with torch.device("meta"):
        model = Transformer(config)
    assert config.n_parameters == sum(p.numel() for p in model.parameters())
    with pytest.raises(ConfigError, match="learned memory"):
        config.to_hf()
    with pytest.raises(ConfigError, match="nodes"):
        load_preset(path, ("memory.nodes=3",))
