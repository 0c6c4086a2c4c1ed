"""A checkpoint folder of the shape of configs/r1-tiny.toml: random weights, a real tokenizer."""

import json
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from deepseek.model.checkpoint import save_model
from deepseek.model.config import ModelConfig, load_preset
from deepseek.model.transformer import Transformer

ROOT = Path(__file__).parents[1]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tiny_config() -> ModelConfig:
    return load_preset(ROOT / "configs/r1-tiny.toml")


def tiny_model(config: ModelConfig, seed: int = 1) -> Transformer:
    """Random weights, large enough that answers vary with the prompt."""
    model = Transformer(config)
    model.initialise(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(6)
    return model.eval()


def write_tiny_checkpoint(folder: Path) -> Path:
    """Weights, config and a byte-level tokenizer trained on the licence."""
    save_model(tiny_model(tiny_config()), folder)
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tiny_config().vocab_size,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(ROOT / "LICENSE")], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
