"""Small models with mixtures of all three forms."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from deepseek.model.block import Block
from deepseek.model.config import ModelConfig
from deepseek.model.moe.config import ExpertGroup, MoEConfig
from deepseek.model.moe.layer import MoELayer
from deepseek.model.transformer import Transformer
from tiny_checkpoint import tiny_config

GROUPS = (
    ExpertGroup(name="general", sizes=(4, 4), always=True),
    ExpertGroup(name="text", sizes=(2, 6, 3)),
    ExpertGroup(name="code", sizes=(8, 1, 5)),
)
"""Ragged sizes, as ranks or neurons."""
LOW_RANK = MoEConfig(form="low_rank", groups=GROUPS)
FULL = MoEConfig(form="full", groups=GROUPS)
SHARED = MoEConfig(form="full", groups=GROUPS, shared=16)
SLICES = MoEConfig(form="slices", shared=96, groups=(ExpertGroup(name="general", sizes=(36,) * 8),))
PARTS = MoEConfig(form="full", parts=2, groups=(ExpertGroup(name="general", sizes=(24,) * 8),))
FORMS = {"low_rank": LOW_RANK, "full": FULL, "shared": SHARED, "slices": SLICES, "parts": PARTS}


def config_of(moe: MoEConfig, **changes: Any) -> ModelConfig:
    return replace(tiny_config(), n_layers=2, moe=moe, **changes)


def model_of(moe: MoEConfig, seed: int = 1, **changes: Any) -> Transformer:
    """Random weights in every part, as if it had been trained, that tell prompts apart."""
    model = Transformer(config_of(moe, **changes))
    model.initialise(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.mul_(6).add_(noise, alpha=0.05)
        for layer in layers_of(model):
            layer.gate.bias.copy_(torch.randn(moe.n_experts, generator=generator) * 0.1)
    return model.eval()


def layers_of(model: Transformer) -> list[MoELayer]:
    found = []
    for block in model.blocks:
        assert isinstance(block, Block)
        assert isinstance(block.feed_forward, MoELayer)
        found.append(block.feed_forward)
    return found


def ids_of(n: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randint(512, (batch, n), generator=torch.Generator().manual_seed(seed))
