"""Our model against transformers' on the same dequantised weights, in float32."""

from pathlib import Path

import pytest
from transformers_peer import QUESTIONS, greedy_of_both, logits_of_both

N_TOKENS = 200


@pytest.mark.weights
def test_logits_of_smollm2(smollm2_path: Path) -> None:
    ours, theirs = logits_of_both(smollm2_path)
    assert ours.shape == theirs.shape
    assert ours.shape[0] >= 512
    assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.large
def test_logits_of_qwen(qwen_path: Path) -> None:
    ours, theirs = logits_of_both(qwen_path)
    assert ours.shape == theirs.shape
    assert ours.shape[0] >= 512
    assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.weights
def test_greedy_answers_of_smollm2(smollm2_path: Path) -> None:
    for ours, theirs in greedy_of_both(smollm2_path, QUESTIONS[:2], N_TOKENS):
        assert ours == theirs


@pytest.mark.large
def test_all_greedy_answers_of_smollm2(smollm2_path: Path) -> None:
    for ours, theirs in greedy_of_both(smollm2_path, QUESTIONS, N_TOKENS):
        assert ours == theirs


@pytest.mark.large
def test_all_greedy_answers_of_qwen(qwen_path: Path) -> None:
    for ours, theirs in greedy_of_both(qwen_path, QUESTIONS, N_TOKENS):
        assert ours == theirs
