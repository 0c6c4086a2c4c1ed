"""Packing changes no logit: each piece is computed as if it were alone."""

import pytest
import torch

from deepseek.core.errors import ConfigError
from deepseek.model.packed import PackedCache
from tiny_checkpoint import tiny_config, tiny_model


def test_logits_of_a_packed_sample_are_those_of_the_lone_one() -> None:
    model = tiny_model(tiny_config())
    lengths = (5, 1, 40, 17, 33, 150, 2, 16)
    ids = torch.randint(512, (1, sum(lengths)), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        packed = model(ids, PackedCache(lengths))[0].split(lengths)
        for part, alone in zip(packed, ids[0].split(lengths), strict=True):
            assert torch.allclose(part, model(alone[None])[0], atol=2e-5)


def test_gradients_are_those_of_the_lone_samples() -> None:
    model = tiny_model(tiny_config()).double().requires_grad_(True)
    lengths = (3, 20, 1, 37)
    ids = torch.randint(512, (1, sum(lengths)), generator=torch.Generator().manual_seed(0))
    model(ids, PackedCache(lengths)).square().sum().backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for alone in ids[0].split(lengths):
        model(alone[None]).square().sum().backward()
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, packed[name], rtol=1e-9, atol=1e-7), name


def test_another_piece_changes_no_bit() -> None:
    model = tiny_model(tiny_config())
    ids = torch.randint(512, (1, 60), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[:, 25:] = torch.randint(512, (1, 35), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first, second = (model(x, PackedCache((25, 35)))[0, :25] for x in (ids, other))
    assert torch.equal(first, second)


def test_empty_pieces_are_refused() -> None:
    with pytest.raises(ConfigError):
        PackedCache((3, 0))
