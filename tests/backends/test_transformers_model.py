"""transformers behind the protocol, against our engine on the same weights in float32."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deepseek.backends.transformers_model import TransformersModel
from deepseek.core.errors import RequestError
from deepseek.core.llm import LanguageModel, Message, SamplingParams
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine

PROMPT = "You may reproduce and distribute copies"


@pytest.fixture(scope="module")
def engine(tiny_folder: Path) -> Engine:
    return load_engine(str(tiny_folder), dtype="float32", threads=1)[0]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> TransformersModel:
    return TransformersModel(str(tiny_folder), dtype="float32", threads=1)


@pytest.mark.parametrize("stop", [(), ("e",)])
@pytest.mark.parametrize("prompt", [PROMPT, [Message("user", PROMPT)]], ids=["text", "chat"])
def test_greedy_answers_are_the_same(
    model: TransformersModel, engine: Engine, prompt: str, stop: tuple[str, ...]
) -> None:
    params = SamplingParams(max_tokens=30, stop=stop)
    mine, theirs = engine.generate(prompt, params), model.generate(prompt, params)
    assert theirs.text == mine.text
    assert theirs.finish_reason == mine.finish_reason
    assert next(iter(model.stream(prompt, params))).text == mine.text


def test_scores_are_the_same(model: TransformersModel, engine: Engine) -> None:
    assert isinstance(model, LanguageModel)
    for prompt, choices in ((PROMPT, (" of the Work", " x")), ("", ("The Work", "x"))):
        mine, theirs = engine.score(prompt, choices), model.score(prompt, choices)
        assert [s.n_tokens for s in mine] == [s.n_tokens for s in theirs]
        assert [s.is_greedy for s in mine] == [s.is_greedy for s in theirs]
        assert [s.logprob for s in mine] == pytest.approx([s.logprob for s in theirs], abs=1e-3)


def test_logits_are_the_same(model: TransformersModel, engine: Engine) -> None:
    ids = engine.encode(PROMPT)
    assert model.encode(PROMPT) == ids
    assert model.decode(ids) == PROMPT
    torch.testing.assert_close(model.logits(ids), engine.logits(ids), atol=1e-3, rtol=0)


def test_it_is_labelled(model: TransformersModel) -> None:
    assert "transformers" in model.name
    assert model.weights == "float32 100 %; computed in float32"
    with pytest.raises(RequestError, match="greedily only"):
        model.generate(PROMPT, SamplingParams(temperature=1.0))
    with pytest.raises(RequestError, match="exceed the context window"):
        model.score("x " * 9_000, [" a"])


def test_vectors_are_the_same(model: TransformersModel, engine: Engine) -> None:
    texts = (PROMPT, "x", "A cat sat on the mat.")
    np.testing.assert_allclose(model.embed(texts), engine.embed(texts), atol=1e-5)
    with pytest.raises(RequestError, match="empty"):
        model.embed(["x", ""])
