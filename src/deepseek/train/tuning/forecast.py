"""What a fine-tuning run would do: parameters, memory, records and steps, without starting it."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepseek.adapt.lora import attach, trained
from deepseek.model.activations import CHUNK
from deepseek.model.config import ModelConfig
from deepseek.model.transformer import Transformer
from deepseek.train.tuning.config import SELF, TuningConfig
from deepseek.train.tuning.examples import GENERAL, encode_data
from deepseek.train.tuning.run import (
    add_general,
    check_base,
    open_base,
    plan_tuning,
    product_dtype,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningForecast:
    """Of a run that was not started. Bytes of a pass are an estimate."""

    settings: dict[str, Any]
    n_parameters: int
    """With those that are added."""
    n_trained: int
    trained: dict[str, list[int]]
    """Shapes of what learns in the first block."""
    weight_bytes: int
    optimiser_bytes: int
    """With gradients."""
    pass_bytes: int
    n_steps: int
    sources: dict[str, dict[str, int]]
    """Records, tokens, and tokens that are learned."""
    funnels: dict[str, str]
    put_aside: list[tuple[str, str]]
    """Places and reasons of the first records that cannot be used."""

    @property
    def share(self) -> float:
        """Of parameters that are trained."""
        return self.n_trained / self.n_parameters

    @property
    def n_bytes(self) -> int:
        """Of everything, about."""
        return self.weight_bytes + self.optimiser_bytes + self.pass_bytes


def forecast_tuning(config: TuningConfig) -> TuningForecast:
    """Read the data, and count a model that is made of shapes only. Nothing is left behind.

    Raises:
        ConfigError: A setting is wrong.
        DocumentError: The data are missing or of no use.
    """
    source, tokenizer = open_base(config.base)
    check_base(config, source)
    shape, tune = ModelConfig.from_checkpoint(source.config()), config.tune
    with torch.device("meta"):
        model = Transformer(shape)
        n_base = sum(p.numel() for p in model.parameters())
        if not tune.full:
            attach(model, config.lora, torch.float32, None)
    learning = {name: list(p.shape) for name, p in trained(model)}
    n_trained = sum(p.numel() for _, p in trained(model))
    width = 4 if tune.full else product_dtype(config).itemsize
    with tempfile.TemporaryDirectory() as folder:
        data = encode_data(config, tokenizer, Path(folder))
        add_general(config, tokenizer, data, Path(folder), None)
        plan = plan_tuning(config, data)
        sources = {
            name: {
                "records": tokens.n_documents,
                "tokens": tokens.n_tokens,
                "learned": int((tokens.tokens >= 0).sum()),
            }
            for name, tokens in data.train.items()
        }
    if config.mix.general == SELF and GENERAL not in sources:
        sources[GENERAL] = {"records": config.mix.answers, "tokens": 0, "learned": 0}
    return TuningForecast(
        settings=config.identity(),
        n_parameters=n_base if tune.full else n_base + n_trained,
        n_trained=n_trained,
        trained={name: size for name, size in learning.items() if name.startswith("blocks.0.")},
        weight_bytes=source.n_bytes if tune.quantised else width * n_base,
        optimiser_bytes=(12 if tune.full else 16) * n_trained,
        pass_bytes=_pass_bytes(config, shape, sources),
        n_steps=plan.n_steps,
        sources=sources,
        funnels=data.funnels(),
        put_aside=[bad[:2] for q in data.quarantines.values() for bad in q.bad][:5],
    )


def _pass_bytes(
    config: TuningConfig, shape: ModelConfig, sources: dict[str, dict[str, int]]
) -> int:
    """Activations and a chunk of logits, for records of mean length."""
    n_records = sum(source["records"] for source in sources.values())
    n_tokens = sum(source["tokens"] for source in sources.values())
    per_pass = config.tune.micro * n_tokens // max(1, n_records)
    d_q, d_kv = shape.n_heads * shape.d_head, shape.n_kv_heads * shape.d_head
    kept = 10 * shape.d_model + 8 * d_q + 4 * d_kv + 5 * shape.d_ff
    layers = 1 if config.tune.recompute else shape.n_layers
    per_token = (layers * kept + shape.n_layers * shape.d_model) * product_dtype(config).itemsize
    return per_pass * per_token + 3 * min(CHUNK, per_pass) * shape.vocab_size * 4
