"""Attention with a learned memory against its definition, and what becomes of it at its limits."""

import random

import pytest
import torch
from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.ops.attention import attention_reference
from deepseek.ops.memory import (
    Bank,
    MemoryConfig,
    choose_blocks,
    memory_attention,
    memory_attention_reference,
    seen_by,
)

CONFIGS = [
    MemoryConfig(window=8, node=4, recalled=2, sinks=1),
    MemoryConfig(window=5, node=3, recalled=1, sinks=0),
    MemoryConfig(window=16, node=8, recalled=0, sinks=0),
    MemoryConfig(window=8, node=4, recalled=2, sinks=1, encoder=True),
    MemoryConfig(window=5, node=3, recalled=0, sinks=2, encoder=True),
]


def inputs(config: MemoryConfig, n_tokens: int, length: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    n_nodes = -(-length // config.node) if config.encoder else length // config.node
    shapes = {
        "q": (2, 4, n_tokens, 8),
        "still": (2, 4, n_tokens, 8),
        "k": (2, 2, length, 8),
        "v": (2, 2, length, 8),
        "node_k": (2, 2, n_nodes, 8),
        "node_v": (2, 2, n_nodes, 8),
        "gates": (2, 4, n_tokens, 3),
        "more": (2, 4, n_tokens, n_nodes),
    }
    made = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    last = length - config.node * (n_nodes - 1)
    counts = [config.node] * (n_nodes - 1) + [min(config.node, last)]
    return made | {"counts": torch.tensor(counts[:n_nodes], dtype=torch.float64)}


def attend(x: dict[str, Tensor], config: MemoryConfig, reference: bool = False) -> Tensor:
    bank = Bank(x["node_k"], x["node_v"], x["counts"])
    rest = x["q"], x["still"], x["k"], x["v"], bank, x["gates"], config, x["more"]
    return memory_attention_reference(*rest) if reference else memory_attention(*rest)[0]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize(("n_tokens", "length"), [(40, 40), (7, 33), (1, 70), (130, 150), (3, 3)])
def test_equals_its_definition(config: MemoryConfig, n_tokens: int, length: int) -> None:
    n_tokens = length if config.encoder else n_tokens
    x = inputs(config, n_tokens, length, length)
    assert torch.allclose(attend(x, config), attend(x, config, reference=True))


@pytest.mark.parametrize("config", CONFIGS[:2] + CONFIGS[3:4], ids=str)
def test_gradients(config: MemoryConfig) -> None:
    x = inputs(config, 18, 18, 5)
    names = [name for name in x if name != "counts"]

    def run(*tensors: Tensor) -> Tensor:
        return attend(dict(zip(names, tensors, strict=True)) | {"counts": x["counts"]}, config)

    tensors = [x[name][:1].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(run, tensors, fast_mode=True)


def test_gradients_through_recomputed_rows() -> None:
    """Longer than what is computed together: parts are computed again for the gradients."""
    config = MemoryConfig(window=64, node=32, recalled=1, sinks=1)
    x = inputs(config, 300, 300, 1)
    names = [name for name in x if name != "counts"]
    found = []
    for reference in (False, True):
        for name in names:
            x[name] = x[name].detach().requires_grad_()
        attend(x, config, reference).square().sum().backward()
        found.append([x[name].grad for name in names])
    for ours, wanted in zip(*found, strict=True):
        assert ours is not None
        assert wanted is not None
        assert torch.allclose(ours, wanted)


@pytest.mark.parametrize("length", [3, 40, 200])
def test_all_recalled_and_gates_of_zero_are_dense_attention(length: int) -> None:
    config = MemoryConfig(window=8, node=4, recalled=100)
    x = inputs(config, length, length, 2)
    x["gates"][..., 0] = x["gates"][..., 2] = 0.0  # the memory's is of no matter: it is empty
    assert torch.allclose(attend(x, config), attention_reference(x["q"], x["k"], x["v"]))


def test_all_recalled_in_an_encoder_is_attention_to_everything() -> None:
    config = MemoryConfig(window=8, node=4, recalled=100, encoder=True)
    x = inputs(config, 50, 50, 3)
    x["gates"][..., 0] = x["gates"][..., 2] = 0.0
    wide_k, wide_v = (x[name].repeat_interleave(2, 1) for name in "kv")
    wanted = (x["q"] @ wide_k.mT / 8**0.5).softmax(-1) @ wide_v
    assert torch.allclose(attend(x, config), wanted)


@pytest.mark.parametrize("seed", range(30))
def test_each_position_is_seen_once(seed: int) -> None:
    """With all scores equal, nodes that are means and count as what they stand for, the result is
    the mean of all that came before: nothing is missing, nothing counted twice."""
    generator = random.Random(seed)
    config = MemoryConfig(
        window=generator.randint(1, 40),
        node=generator.randint(1, 20),
        recalled=generator.randrange(4),
        sinks=generator.randrange(3),
        encoder=generator.random() < 0.5,
    )
    length = generator.randint(1, 150)
    x = inputs(config, length, length, seed)
    for name in ("q", "still", "gates", "more"):
        x[name].zero_()
    blocks = x["v"].split(config.node, 2)[: x["counts"].shape[0]]
    means = [block.mean(2, keepdim=True) for block in blocks]
    x["node_v"] = torch.cat(means, 2) if means else x["node_v"]
    mixed = attend(x, config)
    wide = x["v"].repeat_interleave(2, 1)
    for t in range(length):
        seen = wide if config.encoder else wide[:, :, : t + 1]
        assert torch.allclose(mixed[:, :, t], seen.mean(2))
        parts = [range(start, end) for start, end, _ in seen_by(config, t, length)]
        assert [p for part in parts for p in part] == list(range(seen.shape[2]))


def test_a_block_is_outside_once_it_is_whole_and_before_the_window() -> None:
    config = MemoryConfig(window=8, node=4)
    positions = torch.arange(40)
    visible = config.visible(positions, 10, 40)
    for t in range(40):
        assert visible[t].sum() == max(0, t - 7) // 4
    near = MemoryConfig(window=8, node=4, encoder=True).visible(positions, 10, 40)
    assert near[20].tolist() == [True] * 3 + [False] * 4 + [True] * 3


def test_groups_choose_for_themselves_what_their_heads_look_for() -> None:
    config = MemoryConfig(window=4, node=4, recalled=1, sinks=1)
    scores = torch.zeros(1, 4, 1, 6)
    scores[0, :2, 0, 3] = scores[0, 2:, 0, 2] = 5.0
    visible = torch.tensor([[True] * 5 + [False]])
    chosen, exists = choose_blocks(scores, visible, 2, config)
    assert exists.all()
    assert chosen[0, :, 0].sort(-1).values.tolist() == [[0, 3], [0, 2]]


@pytest.mark.parametrize("wrong", [{"node": 0}, {"window": 0}, {"recalled": -1}, {"sinks": -1}])
def test_wrong_settings(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        MemoryConfig(**wrong)  # type: ignore[arg-type]
