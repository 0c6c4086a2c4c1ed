"""The tokenizers of both checkpoints, and the same ones as transformers and llama.cpp have them."""

from pathlib import Path
from typing import Any

import pytest
from peer_tokenizers import Peer, qwen2_peer, smollm_peer

from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.weights.gguf import GGUFFile


@pytest.fixture(scope="session")
def smollm2_metadata(smollm2_path: Path) -> dict[str, Any]:
    return GGUFFile(smollm2_path).metadata


@pytest.fixture(scope="session")
def smollm2(smollm2_metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf_metadata(smollm2_metadata)


@pytest.fixture(scope="session")
def smollm2_peer(smollm2_metadata: dict[str, Any]) -> Peer:
    return smollm_peer(smollm2_metadata)


@pytest.fixture(scope="session")
def qwen_metadata(qwen_path: Path) -> dict[str, Any]:
    return GGUFFile(qwen_path).metadata


@pytest.fixture(scope="session")
def qwen(qwen_metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf_metadata(qwen_metadata)


@pytest.fixture(scope="session")
def qwen_peer(qwen_metadata: dict[str, Any]) -> Peer:
    return qwen2_peer(qwen_metadata)
