"""A prompt longer than the weights were trained for."""

import pytest

from deepseek.core.llm import SamplingParams
from deepseek.engine.loader import load_engine
from deepseek.ops import native

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(not native.is_fast(), reason="reads thousands of tokens"),
]
FILLER = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
)


@pytest.mark.parametrize(("key", "before"), [("48213", 100), ("90157", 300)])
def test_one_fact_is_found_beyond_the_trained_length(smollm2_path, key, before):
    engine, _ = load_engine(str(smollm2_path), context_window=11_000)
    prompt = (
        "There is an important info hidden inside a lot of irrelevant text. "
        f"Find it and memorize it. {FILLER * before}"
        f"The pass key is {key}. Remember it. {key} is the pass key. {FILLER * (440 - before)}"
        "What is the pass key? The pass key is"
    )
    answer = engine.generate(prompt, SamplingParams(max_tokens=8))
    assert answer.n_prompt_tokens > 8_192 + 1_000
    assert key in answer.text
