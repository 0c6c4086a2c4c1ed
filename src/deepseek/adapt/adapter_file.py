"""Adapters on a disk: written in PEFT's format, and merged into the weights they were made for."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from deepseek.adapt.lora import LoraExperts, LoraSettings, adapted, trained
from deepseek.adapt.surgery import BESIDE
from deepseek.adapt.upcycle import layout_of
from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.core.low_rank import LowRank
from deepseek.model.adapter import fit
from deepseek.model.checkpoint import write_config
from deepseek.model.config import ModelConfig
from deepseek.model.router import write_tensors
from deepseek.model.transformer import Transformer
from deepseek.weights.adapter import AdapterFile
from deepseek.weights.cache import write_atomically
from deepseek.weights.source import WeightSource
from deepseek.weights.tensor_file import write_tensor_file


def fits_peft(model: Transformer) -> bool:
    """Whether others have a form for what a model's low-rank parts add to."""
    is_routed = model.config.moe is not None and model.config.moe.form != "low_rank"
    names = [name for name, _ in adapted(model)]
    outside = any(".mlp." in name for name in names) if is_routed else False
    experts = any(isinstance(module, LoraExperts) for module in model.modules())
    others = any(not name.endswith((".down", ".up")) for name, _ in trained(model))
    return bool(names) and not (outside or experts or others)


def save_adapter(model: Transformer, settings: LoraSettings, folder: Path, base: str) -> None:
    """Write a model's low-rank parts as PEFT writes them, each file whole or not at all.

    Raises:
        ConfigError: Experts of a mixture are among them, for which PEFT has no form.
        CheckpointError: The folder cannot be written.
    """
    if not fits_peft(model):
        raise ConfigError(
            "experts of a mixture were adapted, which no adapter file can hold",
            "merge them into a model with --merge, or leave experts out of lora.targets",
        )
    tensors: dict[str, Tensor] = {}
    for name, part in adapted(model):
        tensors[f"base_model.model.{name}.lora_A.weight"] = part.down
        tensors[f"base_model.model.{name}.lora_B.weight"] = part.up
    targets = {name.split(".lora_")[0].rpartition(".")[2] for name in tensors}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "target_modules": sorted(targets),
        "bias": "none",
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / "adapter_model.safetensors", tensors)
        text = json.dumps(config, indent=2) + "\n"
        write_atomically(folder / "adapter_config.json", text.encode())
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            (folder / name).chmod(0o644)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {folder}: {error.strerror}", "free some space or choose another folder"
        ) from None


def merge_adapter(
    source: WeightSource, file: AdapterFile, out: Path, dtype: torch.dtype
) -> ModelConfig:
    """Write a checkpoint with an adapter added to its weights, one tensor at a time.

    Args:
        source: The base.
        file: Made for it.
        out: A new folder, that transformers and `--model` take.
        dtype: Of the new matrices; sums are made in float64.

    Raises:
        CheckpointError: The adapter does not fit, or the folder cannot be written.
    """
    config = ModelConfig.from_checkpoint(source.config())
    fit(file, config)
    if source.folder is not None and out.resolve() == source.folder.resolve():
        raise ConfigError(f"{out} is the base itself", "choose another folder")
    layout = layout_of(config, dtype)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name in layout:
            part = file.parts.get(name.removesuffix(".weight"))
            tensor = source.tensor(name, torch.float32)
            yield name, tensor if part is None else tensor + change_of(part)
            source.release()

    try:
        out.mkdir(parents=True, exist_ok=True)
        write_tensor_file(out / "model.safetensors", layout, tensors())
        write_config(config, dtype, out)
        for name in BESIDE:
            if source.folder is not None and (source.folder / name).is_file():
                shutil.copyfile(source.folder / name, out / name)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {out}: {error.strerror}", "free some space or choose another folder"
        ) from None
    return config


def change_of(part: LowRank) -> Tensor:
    """What an adapter adds to a matrix, in float32."""
    return part.scale * (part.up.double() @ part.down.double()).float()


def n_numbers(file: AdapterFile) -> int:
    """How many numbers an adapter has."""
    return sum(
        math.prod(matrix.shape) for part in file.parts.values() for matrix in (part.down, part.up)
    )
