"""Training one group of experts changes no bit of anything else."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepseek.adapt.isolation import Isolation, shares_of
from deepseek.core.errors import ConfigError
from deepseek.model.checkpoint import load_model
from deepseek.model.moe.config import MoEConfig
from deepseek.model.moe.layout import group_rows, is_stacked
from deepseek.model.moe.load import mixtures_of
from deepseek.model.transformer import Transformer
from deepseek.weights.source import open_weights
from tiny_checkpoint import tiny_config, tiny_model

IDS = torch.randint(512, (2, 60), generator=torch.Generator().manual_seed(0))


def trainable(folder: Path) -> Transformer:
    """With what every expert says not 0, so that all could be moved."""
    model = load_model(open_weights(folder), dtype=torch.float32, pack=False).train()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_b"):
                parameter.normal_(0, 0.02, generator=generator)
    return model


def train(model: Transformer, isolation: Isolation, domain: int | None, steps: int = 4) -> None:
    optimizer = torch.optim.AdamW(isolation.parameters, lr=1e-2, weight_decay=0.3)
    domains = None if domain is None else torch.full_like(IDS, domain)
    for _ in range(steps):
        logits = model(IDS, domains=domains)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for layer in mixtures_of(model):
            layer.update_balance(layer.take_counts(), 0.01)
        isolation.restore()


def changed_rows(before: Tensor, after: Tensor) -> set[int]:
    different = (before != after).flatten(1).any(1) if before.dim() > 1 else before != after
    return set(different.nonzero()[:, 0].tolist())


@pytest.mark.parametrize("router", [True, False])
@pytest.mark.parametrize("domain", [2, None])
def test_only_the_groups_rows_change(
    mixture_folder: Path, moe: MoEConfig, router: bool, domain: int | None
) -> None:
    model = trainable(mixture_folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, Isolation(model, ["code"], router=router), domain)
    moved = 0
    for name, tensor in model.state_dict().items():
        own = name.partition(".feed_forward.")[2]
        changed = changed_rows(before[name], tensor)
        is_gate = own.startswith("gate.")
        if not is_stacked(own) or (is_gate and not router):
            assert not changed, name
            continue
        (rows,) = group_rows(moe, own, ["code"])
        assert changed <= set(range(rows.start, rows.stop)), name
        if not is_gate:
            moved += len(changed)
    ranks = sum(moe.groups[2].sizes)
    assert moved == 4 * 6 * ranks  # all of code's, in all layers and tensors


def test_whole_parameters_may_be_trained_as_well(mixture_folder: Path) -> None:
    model = trainable(mixture_folder)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, Isolation(model, ["text"], more="attention.qkv"), None)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert all("feed_forward" in name or "attention.qkv" in name for name in changed)
    assert sum("attention.qkv" in name for name in changed) == 4


def test_shares_cover_each_group_once(mixture_folder: Path, moe: MoEConfig) -> None:
    model = trainable(mixture_folder)
    names = [group.name for group in moe.groups]
    every = [shares_of(model, [name]) for name in names]
    assert len({len(shares) for shares in every}) == 1
    for shares in zip(*every, strict=True):
        rows = [i for share in shares for own in share.rows for i in range(own.start, own.stop)]
        assert rows == list(range(len(shares[0].tensor)))


def test_gradients_come_back_when_isolation_ends(mixture_folder: Path) -> None:
    model = trainable(mixture_folder)
    isolation = Isolation(model, ["code"])
    model(IDS).square().mean().backward()
    up = mixtures_of(model)[0].experts.get_parameter("up_b")
    assert up.grad is not None
    first = group_rows(model.config.moe, "experts.up_b", ["general"])[0]  # type: ignore[arg-type]
    assert not up.grad[first].any()
    isolation.end()
    up.grad = None
    model(IDS).square().mean().backward()
    assert up.grad is not None
    assert up.grad[first].any()


def test_what_cannot_be_isolated(mixture_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no group of experts 'cod'"):
        Isolation(trainable(mixture_folder), ["cod"])
    with pytest.raises(ConfigError, match="the model has no experts"):
        Isolation(tiny_model(tiny_config()), ["code"])
