"""Our model against transformers' on the same dequantised weights, in float32."""

from pathlib import Path

import pytest
from transformers_peer import (
    QUESTIONS,
    generated,
    greedy_answers,
    likeliest,
    logits_of_both,
    transformers_model,
)

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
def test_a_greedy_answer_of_smollm2(smollm2_path: Path) -> None:
    [(prompt, answer)] = greedy_answers(smollm2_path, QUESTIONS[:1], 100)
    model = transformers_model(smollm2_path)
    assert generated(model, prompt, 100) == answer
    assert likeliest(model, prompt, answer) == answer


@pytest.mark.large
@pytest.mark.parametrize("fixture", ["smollm2_path", "qwen_path"])
def test_twenty_greedy_answers(fixture: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(fixture)
    answers = greedy_answers(path, QUESTIONS, N_TOKENS)
    model = transformers_model(path)
    for prompt, answer in answers:
        assert len(answer) == N_TOKENS
        assert likeliest(model, prompt, answer) == answer
