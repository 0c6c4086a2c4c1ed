"""Wherever a prompt is cut, its tokens choose in the same company as in one reading."""

import random

import pytest

from deepseek.engine.runner import first_asking
from deepseek.engine.sharing import LEAST, chunk_end, shareable_length
from deepseek.ops.hierarchical import PAGE, QUESTION, Hierarchy

SMALL = Hierarchy(sinks=64, window=64, recall=64, dense=128, reach=1_024)


@pytest.mark.parametrize("seed", range(4))
def test_pauses_leave_together_what_chooses_together(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(2_000):
        n_prompt = generator.randrange(1, 4_096)
        n_tokens = n_prompt + generator.choice((0, generator.randrange(60)))
        start = shareable_length(generator.randrange(n_prompt + 1), SMALL)
        while start < n_tokens:
            end = chunk_end(start, n_tokens, generator.randrange(LEAST, 1_200), n_prompt, SMALL)
            assert start < end <= n_tokens
            assert end % PAGE == 0 or end <= SMALL.n_dense or end >= first_asking(n_prompt)
            start = end


def test_dense_attention_pauses_and_shares_anywhere() -> None:
    assert chunk_end(7, 500, 200, 500, None) == 207
    assert chunk_end(400, 500, 200, 450, None) == 500
    assert shareable_length(3 * PAGE + 5, None) == 3 * PAGE


@pytest.mark.parametrize("n_prompt", [1, 150, QUESTION + 2 * PAGE - 1, QUESTION + 2 * PAGE, 5_000])
def test_the_last_tokens_of_a_prompt_are_its_own(n_prompt: int) -> None:
    """Beyond the dense part."""
    length = shareable_length(n_prompt, SMALL)
    assert length % PAGE == 0
    assert length <= max(min(n_prompt, SMALL.n_dense), n_prompt - QUESTION)
    assert length > max(min(n_prompt, SMALL.n_dense), n_prompt - QUESTION) - PAGE
