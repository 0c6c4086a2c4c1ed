"""The tiny checkpoint with its matrices in 8 bits, for the native library."""

from pathlib import Path

import torch

from deepseek.core.codes import Codes
from deepseek.engine.engine import Engine
from deepseek.model.block import Block
from deepseek.model.config import ModelConfig
from deepseek.model.linear import Linear
from deepseek.model.transformer import Transformer
from deepseek.ops.linear import QuantisedWeight
from deepseek.ops.native import NativeMatrix
from deepseek.tokenizer.tokenizer import Tokenizer
from tiny_checkpoint import tiny_config, tiny_model

GROUP = 32


def native_model(seed: int = 1, config: ModelConfig | None = None) -> Transformer:
    """Random weights, rounded to 8 bits."""
    model = tiny_model(config or tiny_config(), seed)
    config = model.config
    d_kv = config.n_kv_heads * config.d_head
    for block in model.blocks:
        assert isinstance(block, Block)
        quantise(block.attention.qkv, [config.n_heads * config.d_head, d_kv, d_kv])
        quantise(block.attention.output, [config.d_model])
        quantise(block.feed_forward.gate_up, [config.d_ff, config.d_ff])
        quantise(block.feed_forward.down, [config.d_model])
    quantise(model.head, [config.vocab_size])
    return model


def quantise(linear: Linear, sizes: list[int]) -> None:
    """Its weight as matrices of some heights, one below the other."""
    assert linear.weight is not None
    parts = torch.split(linear.weight.detach(), sizes)
    linear.use_quantised(QuantisedWeight(tuple(map(packed, parts))))


def packed(weight: torch.Tensor) -> NativeMatrix:
    groups = weight.unflatten(1, (-1, GROUP))
    scales = groups.abs().amax(-1) / 127
    codes = (groups / scales[..., None]).round().flatten(1) + 128
    matrix = NativeMatrix(8, *weight.shape)
    matrix.put(0, Codes(8, codes.to(torch.uint8), scales, None))
    return matrix


def native_engine(tiny_folder: Path, **settings: object) -> Engine:
    """An engine over them, with the tiny checkpoint's tokenizer."""
    given: dict[str, object] = {
        "name": "tiny",
        "dtype": torch.float32,
        "device": torch.device("cpu"),
    }
    tokenizer = Tokenizer.from_folder(tiny_folder)
    return Engine(native_model(), tokenizer, **(given | settings))  # type: ignore[arg-type]
