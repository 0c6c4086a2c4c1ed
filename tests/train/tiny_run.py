"""A run so small that a step takes milliseconds: random documents, a model of 30,000 weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepseek.data.mixture import DynamicSettings
from deepseek.data.sampler import Sampler, StageMix
from deepseek.data.token_file import EncodedDocument, TokenFile, write_token_file
from deepseek.model.config import ModelConfig
from deepseek.model.transformer import Transformer
from deepseek.train.evaluation import HeldOut
from deepseek.train.loop import LoopSettings, Trainer
from deepseek.train.optimiser import OptimiserSettings
from deepseek.train.plan import Plan, PlannedStage
from deepseek.train.schedule import Schedule

VOCABULARY, WINDOW = 64, 32
SHAPE = ModelConfig(
    family="llama",
    vocab_size=VOCABULARY,
    d_model=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    d_head=8,
    d_ff=64,
    context_window=64,
)


def tiny_transformer(seed: int = 0) -> Transformer:
    model = Transformer(SHAPE)
    model.initialise(seed)
    return model


def some_documents(folder: Path, name: str, seed: int) -> TokenFile:
    """Words that repeat, so that there is something to learn."""
    draw = np.random.Generator(np.random.PCG64(seed))
    words = draw.integers(1, VOCABULARY, (8, 5))
    documents = []
    for _ in range(40):
        ids = words[draw.integers(0, 8, draw.integers(1, 16))].flatten().tolist()
        documents.append(EncodedDocument([*ids, 0], 2 * len(ids), float(draw.random())))
    return write_token_file(folder / f"{name}.tokens", documents)


def tiny_plan(n_steps: int = 6, batch: int = 4) -> Plan:
    half = n_steps // 2
    parts = [("first", 0, half, {"a": 1.0, "b": [[0.0, 1.0], [1.0, 3.0]]}, 0.5)]
    parts.append(("second", half, n_steps, {"a": 3.0, "b": 1.0}, 0.0))
    stages = [
        PlannedStage(
            name,
            start,
            end,
            StageMix(weights=weights, n_windows=(end - start) * batch, pacing=pacing),
            1.0,
            None,
        )
        for name, start, end, weights, pacing in parts
    ]
    return Plan(stages, batch, WINDOW, 1e-2, Schedule())


def tiny_trainer(folder: Path, **changes: Any) -> Trainer:
    """A trainer with random documents in `folder`; changes go to the loop or the trainer."""
    sources = {name: some_documents(folder, name, i) for i, name in enumerate("ab")}
    settings: dict[str, Any] = {
        "micro": 2,
        "dtype": torch.float32,
        "clip": 1.0,
        "spike": 10.0,
        "z_loss": 1e-4,
        "evaluate_every": 3,
        "save_every": 2,
        "keep": 2,
    }
    settings |= {key: changes.pop(key) for key in list(changes) if key in settings}
    optimiser: Mapping[str, Any] = changes.pop("optimiser", {})
    plan = changes.pop("plan", None) or tiny_plan()
    model = changes.pop("model", None) or tiny_transformer()
    out = changes.pop("out", folder / "run")
    return Trainer(
        model,
        Sampler(sources, WINDOW, 0, DynamicSettings()),
        plan,
        LoopSettings(**settings),
        OptimiserSettings(**{"rate": 1e-2, **optimiser}),
        out,
        held_out=HeldOut({"c": some_documents(folder, "c", 0)}, WINDOW, 500),
        **changes,
    )
