"""Mixtures of experts in a run: whose domain a source is, and training some groups alone."""

from collections.abc import Mapping, Sequence

import torch

from deepseek.adapt.isolation import shares_of
from deepseek.core.errors import ConfigError
from deepseek.model.config import ModelConfig
from deepseek.model.moe.gate import UNKNOWN
from deepseek.model.transformer import Transformer
from deepseek.train.config import TrainingConfig
from deepseek.train.subset import Mask


def domains_of(shape: ModelConfig, named: Mapping[str, str | None]) -> list[int] | None:
    """The number of each source's group of experts; None if no source names one.

    Args:
        shape: Of the model.
        named: The group that each source names.

    Raises:
        ConfigError: The model is dense, or there is no such group.
    """
    if not any(named.values()):
        return None
    if shape.moe is None:
        name = next(source for source, group in named.items() if group)
        raise ConfigError(
            f"source {name} has a domain, and the model has no experts",
            "leave it out, or train a mixture (`deepseek upcycle`, configs/r1-tiny-moe.toml)",
        )
    return [UNKNOWN if group is None else shape.moe.group(group) for group in named.values()]


def mask_of(config: TrainingConfig, model: Transformer) -> Mask:
    """What the settings allow to change.

    Raises:
        ConfigError: It is not there.
    """
    if config.trainable.only:
        return Mask.matching(model, config.trainable.only)
    if config.trainable.groups:
        return group_mask(model, config.trainable.groups)
    return Mask.everything(model)


def group_mask(model: Transformer, groups: Sequence[str]) -> Mask:
    """Whatever parameters belong to some groups of experts, their rows of the gates included.

    Raises:
        ConfigError: The model is dense, or there is no such group.
    """
    parameters = dict(model.named_parameters())
    parts = {}
    for share in shares_of(model, groups):
        rows = [torch.arange(rows.start, rows.stop) for rows in share.rows]
        if share.name in parameters and rows:
            parts[share.name] = torch.cat(rows)
    return Mask(parts)
