"""A real paper, longer than the weights were trained for, read as a whole."""

import pytest

from deepseek import R1Model

QUESTION = "which optimizer and which learning rate are used"


@pytest.mark.weights
def test_the_whole_paper_is_read_by_hierarchical_attention(smollm2_path, attention_paper):
    model = R1Model(smollm2_path, context_window=100_000)
    seen = []
    analysis = model.analyze_paper(attention_paper, tasks=[QUESTION], on_progress=seen.append)
    reading = analysis.reading
    assert reading.extent == "whole"
    assert reading.n_tokens > 8_192  # what the weights were trained for
    assert reading.context_window == 100_000
    attended = reading.attended
    assert attended.n_tokens > reading.n_tokens
    assert (attended.sinks, attended.recalled) == (128, 2_048)
    assert 512 <= attended.window < 512 + 64
    assert attended.n_memory_nodes == attended.n_tokens // 64 * 4
    assert f"{reading.n_tokens:,} tokens" in analysis.to_markdown()
    assert "2,048 recalled of" in analysis.to_markdown()
    tokens = [p for p in seen if p.unit == "tokens"]
    assert [p.total for p in tokens] == [tokens[0].total] * len(tokens)  # read once
    assert tokens[-1].done == tokens[-1].total > reading.n_tokens
    assert all(e.verified for f in analysis.findings for e in f.evidence)
    assert model.context is None
