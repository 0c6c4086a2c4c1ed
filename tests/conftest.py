"""Fixtures that need real weights. They are pulled once into the user's cache."""

import os
from pathlib import Path

import pytest
import torch

from deepseek.core.threads import thread_count


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(thread_count()[0])


def _pulled(name: str) -> Path:
    from deepseek.weights.pull import ensure

    return ensure(name).path


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The GGUF file of SmolLM2-135M."""
    named = os.environ.get("DEEPSEEK_TEST_SMOLLM2")
    return Path(named) if named else _pulled("smollm2-135m")


@pytest.fixture(scope="session")
def qwen_path() -> Path:
    """The GGUF file of Qwen2.5-Coder-1.5B."""
    named = os.environ.get("DEEPSEEK_TEST_QWEN")
    return Path(named) if named else _pulled("qwen2.5-coder-1.5b")


@pytest.fixture(scope="session")
def attention_paper() -> Path:
    """The PDF of "Attention Is All You Need"."""
    named = os.environ.get("DEEPSEEK_TEST_PAPER")
    return Path(named) if named else _pulled("paper-attention")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the shape of configs/r1-tiny.toml with random weights."""
    from tiny_checkpoint import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))
