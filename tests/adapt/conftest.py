"""Mixtures made of the tiny checkpoint."""

from pathlib import Path

import pytest
import torch

from deepseek.adapt.calibration import BUILTIN, Calibration, builtin_texts, calibrate
from deepseek.adapt.groups import plan_mixture
from deepseek.adapt.upcycle import upcycle
from deepseek.model.moe.config import MoEConfig
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.weights.source import open_weights

GROUPS = "general=4x2,text=2x2+4x1,code=8x2+3x1"


@pytest.fixture(scope="session")
def moe() -> MoEConfig:
    return plan_mixture("low_rank", 384, n_experts=8, groups=GROUPS)


@pytest.fixture(scope="session")
def sample(tiny_folder: Path, moe: MoEConfig) -> Calibration:
    tokenizer = Tokenizer.from_folder(tiny_folder)
    texts = {name: text[:40_000] for name, text in builtin_texts().items()}
    return calibrate(texts, tokenizer.encode, moe, BUILTIN, 4_096)


@pytest.fixture(scope="session")
def mixture_folder(
    tiny_folder: Path,
    moe: MoEConfig,
    sample: Calibration,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Eight fresh experts of low rank in three groups, in float32."""
    out = tmp_path_factory.mktemp("mixture")
    upcycle(open_weights(tiny_folder), moe, out, calibration=sample, dtype=torch.float32)
    Tokenizer.from_folder(tiny_folder).save(out)
    return out
