"""Writes adapters with random numbers in PEFT's format, for models of any shape."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from deepseek.model.adapter import MATRICES, shape_of
from deepseek.model.config import ModelConfig

Tensors = dict[str, Tensor]
ALL = tuple(name.rpartition(".")[2] for name in MATRICES)


def random_tensors(
    config: ModelConfig, rank: int, modules: Sequence[str] = ALL, seed: int = 0, size: float = 1.0
) -> Tensors:
    """Both matrices of each layer's modules, so large that they change answers."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for layer in range(config.n_layers):
        for name, which in MATRICES.items():
            if name.rpartition(".")[2] not in modules:
                continue
            n_out, n_in = shape_of(config).of(which)
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            down = torch.randn(rank, n_in, generator=generator) / n_in**0.5
            found[f"{prefix}.lora_A.weight"] = down
            found[f"{prefix}.lora_B.weight"] = size * torch.randn(n_out, rank, generator=generator)
    return found


def write_adapter(folder: Path, tensors: Tensors, **settings: Any) -> Path:
    """A folder as PEFT's `save_pretrained` writes it."""
    first = next(iter(tensors.values()))
    names = {name.split(".lora_")[0].rpartition(".")[2] for name in tensors}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "a/base",
        "r": first.shape[0],
        "lora_alpha": first.shape[0],
        "target_modules": sorted(names),
        "bias": "none",
        "use_dora": False,
        "modules_to_save": None,
        "lora_dropout": 0.05,
        "inference_mode": True,
        "init_lora_weights": True,
        "rank_pattern": {},
        "alpha_pattern": {},
        "layers_to_transform": None,
        "use_rslora": False,
    } | settings
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def random_adapter(
    folder: Path,
    config: ModelConfig,
    rank: int = 8,
    modules: Sequence[str] = ALL,
    seed: int = 0,
    size: float = 0.3,
) -> Path:
    """One that adds to all layers."""
    return write_adapter(folder, random_tensors(config, rank, modules, seed, size))
