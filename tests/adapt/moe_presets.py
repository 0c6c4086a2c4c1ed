"""Presets by name."""

from deepseek.model.config import ModelConfig, load_preset
from tiny_checkpoint import ROOT


def preset(name: str) -> ModelConfig:
    return load_preset(ROOT / "configs" / f"{name}.toml")
