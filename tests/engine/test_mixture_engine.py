"""A mixture of experts in the engine's native runner: the same answers in any company."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepseek.core.llm import SamplingParams, ScoreRequest
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.engine.torch_runner import TorchRunner
from deepseek.model.checkpoint import save_model
from deepseek.model.moe.config import ExpertGroup, MoEConfig
from deepseek.model.transformer import Transformer
from deepseek.ops import native
from tiny_checkpoint import tiny_config, write_tiny_checkpoint

pytestmark = pytest.mark.skipif(not native.is_fast(), reason="there are no kernels for this CPU")
GROUPS = (ExpertGroup(name="general", sizes=(8, 16, 4)), ExpertGroup(name="text", sizes=(8, 3)))
PROMPTS = [
    f"Number {n} of some prompts that begin alike, and go on for {n} words" for n in range(5)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny_checkpoint(tmp_path_factory.mktemp("mixture"))
    config = replace(tiny_config(), moe=MoEConfig(form="low_rank", groups=GROUPS))
    model = Transformer(config)
    model.initialise(1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.mul_(6).add_(noise, alpha=0.05)
    save_model(model, path)
    return path


def test_answers_are_the_same_alone_and_side_by_side(folder: Path) -> None:
    engine, report = load_engine(str(folder), dtype="int8", threads=1)
    assert isinstance(engine.runner, NativeRunner)
    assert "int8" in report.weights
    params = SamplingParams(max_tokens=12)
    alone = [engine.generate(prompt, params).token_ids for prompt in PROMPTS]
    assert len(set(map(tuple, alone))) > 1
    together = {n: answer.token_ids for n, answer in engine.generate_many(PROMPTS, params)}
    assert [together[n] for n in range(len(PROMPTS))] == alone
    requests = [ScoreRequest(prompt, (" a", " word")) for prompt in PROMPTS]
    many = list(engine.score_many(requests))
    assert many == [next(iter(engine.score_many([request]))) for request in requests]


def test_int8_is_close_to_what_torch_computes(folder: Path) -> None:
    rounded, _ = load_engine(str(folder), dtype="int8", threads=1)
    reference, _ = load_engine(str(folder), dtype="float32", threads=1)
    assert isinstance(reference.runner, TorchRunner)
    ids = reference.encode(" ".join(PROMPTS))[:150]
    ours, theirs = (e.logits(ids).double().log_softmax(-1) for e in (rounded, reference))
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)
    assert 1e-9 < float(divergence.median()) < 0.02
