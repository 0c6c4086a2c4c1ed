"""A learned router: nothing changes before training, and its file is checked."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepseek.core.errors import CheckpointError
from deepseek.model.hierarchical import HierarchicalCache
from deepseek.model.router import LearnedRouter, load_router, read_tensors, save_router
from deepseek.model.transformer import Transformer
from deepseek.ops.hierarchical import PAGE, UNTRAINED, Hierarchy, Router, Turns
from deepseek.ops.rope import apply_rope, rope_table
from tiny_checkpoint import tiny_config

SMALL = Hierarchy(sinks=64, window=64, recall=128, dense=0, reach=300)


def trained() -> LearnedRouter:
    """As if training had changed everything."""
    router = LearnedRouter(tiny_config()).double()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in router.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype), alpha=0.5)
    return router.requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> Transformer:
    made = Transformer(tiny_config()).double()
    made.initialise(3)
    return made.requires_grad_(False)


def read(model: Transformer, router: Router, ids: Tensor, *sizes: int) -> Tensor:
    device = torch.device("cpu")
    cache = HierarchicalCache(
        model.config, SMALL, dtype=torch.float64, device=device, router=router
    )
    parts = ids.split(list(sizes) or [ids.shape[1]], 1)
    return torch.cat([model(part, cache) for part in parts], 1)


def random_ids(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(tiny_config().vocab_size, (1, n), generator=generator)


def test_before_training_it_is_the_router_without_training(model: Transformer) -> None:
    ids = random_ids(12 * PAGE + 5)
    with torch.no_grad():
        fresh = read(model, LearnedRouter(tiny_config()).double(), ids)
    assert torch.equal(fresh, read(model, UNTRAINED, ids))
    assert not torch.allclose(fresh, read(model, trained(), ids))


def test_chunks_of_whole_pages_change_nothing(model: Transformer) -> None:
    ids, router = random_ids(12 * PAGE), trained()
    parts = read(model, router, ids, PAGE, 4 * PAGE, 7 * PAGE)
    assert torch.allclose(parts, read(model, router, ids))


def test_only_distances_matter() -> None:
    """The same keys and queries, 1,000 pages later."""
    config, router = tiny_config(), trained()
    generator = torch.Generator().manual_seed(0)
    shape = 1, config.n_kv_heads, 3 * PAGE, config.d_head
    plain = torch.randn(shape, generator=generator, dtype=torch.float64)
    rows = torch.randn(config.n_kv_heads, 2, 8, config.d_head, generator=generator).double()

    def at(first: int) -> Tensor:
        positions = torch.arange(first * PAGE, (first + 3) * PAGE)
        table = rope_table(positions, config.d_head, config.rope_theta, torch.float64)
        nodes = router.remember(1, apply_rope(plain, *table)[0], first)
        return router.look(1, Turns(theta=config.rope_theta).back(rows, -first), nodes)

    assert torch.allclose(at(0), at(1_000))


def test_learned_nodes_by_their_definition() -> None:
    config, router = tiny_config(), trained()
    keys = torch.randn(config.n_kv_heads, PAGE, config.d_head, dtype=torch.float64)
    nodes = router.remember(2, keys, 0)
    still = apply_rope(
        keys[None], *rope_table(-torch.arange(PAGE), config.d_head, config.rope_theta, keys.dtype)
    )[0]
    rows = torch.randn(config.n_kv_heads, 1, 2, config.d_head, dtype=torch.float64)
    found = router.look(2, rows, nodes)
    plain = UNTRAINED.look(2, rows, UNTRAINED.remember(2, keys, 0))
    for group in range(config.n_kv_heads):
        for head in range(2):
            factor = 1 + router.stretch[2, group, head].repeat(2)
            q, total = rows[group, 0, head] * factor, torch.tensor(0.0).double()
            for j in range(router.count.shape[2]):
                scores = still[group] @ router.salience[2, group, :, j]
                weights = (scores + router.place[2, group, :, j]).softmax(0)
                total += ((q * (weights @ keys[group])).sum() + router.count[2, group, j]).exp()
            base = plain[group, 0, head, 0]
            more = (base.exp() + total).log() - base
            wanted = base + router.gate[2, group, head] * more
            assert torch.allclose(found[group, 0, head, 0], wanted)


def test_kept_in_a_file(tmp_path: Path) -> None:
    router = trained().float()
    save_router(router, tmp_path / "router.safetensors")
    again = load_router(tmp_path / "router.safetensors", tiny_config())
    for name, tensor in router.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_other_files_are_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    from safetensors.torch import save_file

    path = tmp_path / "router.safetensors"
    with pytest.raises(CheckpointError, match="cannot open"):
        load_router(path, tiny_config())
    save_router(trained(), path)
    with pytest.raises(CheckpointError, match="salience"):
        load_router(path, replace(tiny_config(), n_layers=3))
    tensors = read_tensors(path)
    save_file({k: v for k, v in tensors.items() if k != "gate"}, path)
    with pytest.raises(CheckpointError, match="gate"):
        load_router(path, tiny_config())
    save_file(tensors | {"gate": tensors["gate"] * torch.nan}, path)
    with pytest.raises(CheckpointError, match="finite"):
        load_router(path, tiny_config())
    save_file({"other": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match="no router"):
        load_router(path, tiny_config())
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError):
        load_router(path, tiny_config())
