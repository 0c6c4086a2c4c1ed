"""What a run would take: parameters, memory, steps and tokens, without starting it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from deepseek.data.mixture import Mixture
from deepseek.model.activations import CHUNK, activation_bytes
from deepseek.model.config import ModelConfig
from deepseek.model.transformer import Transformer
from deepseek.train.config import TrainingConfig
from deepseek.train.experts import domains_of, mask_of
from deepseek.train.plan import plan_run

BYTES_A_TOKEN = 4
"""Of text, about, for a forecast; small vocabularies have fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Of a run that was not started. Bytes and tokens of texts are estimates."""

    settings: dict[str, Any]
    shape: dict[str, Any]
    n_parameters: int
    n_trained: int
    weight_bytes: int
    optimiser_bytes: int
    """With gradients."""
    pass_bytes: int
    """Activations of a pass and logits of a chunk, about."""
    stages: list[dict[str, Any]]
    sources: dict[str, dict[str, int]]

    @property
    def n_bytes(self) -> int:
        """Of everything, about."""
        return self.weight_bytes + self.optimiser_bytes + self.pass_bytes


def forecast(
    config: TrainingConfig, shape: ModelConfig, files: Mapping[str, Sequence[Path]]
) -> Forecast:
    """Count without memory: the model is made of tensors that have shapes only.

    Raises:
        ConfigError: What may change is not there.
    """
    with torch.device("meta"):
        model = Transformer(shape)
    mask = mask_of(config, model)
    domains_of(shape, {name: source.domain for name, source in config.sources.items()})
    n_parameters = sum(p.numel() for p in model.parameters())
    n_trained = mask.n_trained(model)
    per_number = 4 + (8 if config.optimiser.kind == "adamw" else 4)
    return Forecast(
        settings=config.identity(),
        shape=asdict(shape),
        n_parameters=n_parameters,
        n_trained=n_trained,
        weight_bytes=4 * n_parameters,
        optimiser_bytes=per_number * n_trained,
        pass_bytes=_pass_bytes(config, shape),
        stages=_stages(config),
        sources={
            name: {
                "files": len(own),
                "bytes": (size := sum(f.stat().st_size for f in own if f.exists())),
                "tokens": size // BYTES_A_TOKEN,
            }
            for name, own in files.items()
        },
    )


def _pass_bytes(config: TrainingConfig, shape: ModelConfig) -> int:
    run = config.run
    n_tokens = min(run.micro, run.batch) * run.window
    kept = activation_bytes(
        shape, n_tokens, width=4 if run.dtype == "float32" else 3, recompute=run.recompute
    )
    return kept + 3 * min(CHUNK, n_tokens) * shape.vocab_size * 4


def _stages(config: TrainingConfig) -> list[dict[str, Any]]:
    """What each stage reads of each source, if weights do not move by themselves."""
    rows = []
    for stage in plan_run(config).stages:
        mixture = Mixture(list(config.sources), stage.mix.weights, None)
        counts = dict.fromkeys(config.sources, 0)
        for number in range(stage.mix.n_windows):
            counts[mixture.choose(number / stage.mix.n_windows)] += 1
        rows.append(
            {
                "name": stage.name,
                "steps": stage.end - stage.start,
                "tokens": stage.mix.n_windows * config.run.window,
                "sources": {n: c * config.run.window for n, c in counts.items() if c},
            }
        )
    return rows
