"""Vectors of texts, against the model's last hidden states of each text alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_native import native_engine

from deepseek.core.errors import RequestError
from deepseek.core.llm import EmbeddingModel, Pooling
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.ops import native

TEXTS = (
    "The licence applies to every copy of the work.",
    "The licence applies to every copy of this book, and to nothing else that you may find here.",
    "x",
    "A cat sat on the mat. " * 40,
    "The licence",
)


@pytest.fixture(scope="module", params=["torch", "native"])
def engine(request: pytest.FixtureRequest, tiny_folder: Path) -> Engine:
    if request.param == "torch":
        return load_engine(str(tiny_folder), dtype="float32", threads=1)[0]
    if not native.is_available():
        pytest.skip("the kernels were not built")
    return native_engine(tiny_folder)


@torch.inference_mode()
def reference(engine: Engine, text: str, pooling: Pooling) -> np.ndarray:
    model = engine.runner.model
    states = model.norm(model.hidden_states(torch.tensor([engine.encode(text)])))[0].double()
    vector = states.mean(0) if pooling == "mean" else states[-1]
    return (vector / vector.norm()).numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_they_are_those_of_each_text_alone(engine: Engine, pooling: Pooling) -> None:
    assert isinstance(engine, EmbeddingModel)
    got = engine.embed(TEXTS, pooling=pooling)
    assert got.dtype == np.float32
    wanted = np.stack([reference(engine, text, pooling) for text in TEXTS])
    is_rounded = not isinstance(engine.runner.model.head.weight, torch.Tensor)
    np.testing.assert_allclose(got, wanted, atol=2e-2 if is_rounded else 1e-5)
    assert (got[0] @ got[1]) < 1


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_neighbours_change_nothing(tiny_folder: Path, pooling: Pooling) -> None:
    if not native.is_available():
        pytest.skip("the kernels were not built")
    engine = native_engine(tiny_folder)
    together = engine.embed(TEXTS, pooling=pooling)
    for text, vector in zip(TEXTS, together, strict=True):
        assert np.array_equal(engine.embed([text], pooling=pooling)[0], vector)
    engine.generate("The licence applies to every copy", None)
    assert np.array_equal(engine.embed(TEXTS[::-1], pooling=pooling)[::-1], together)


def test_many_texts_take_several_passes(engine: Engine) -> None:
    texts = [f"{n} of {text}" for n in range(30) for text in TEXTS[:3]]
    got = engine.embed(texts)
    assert got.shape == (90, engine.runner.model.config.d_model)
    np.testing.assert_allclose(got[77], engine.embed([texts[77]])[0], atol=1e-5)


def test_what_cannot_be_done(engine: Engine) -> None:
    assert engine.embed([]).shape == (0, engine.runner.model.config.d_model)
    with pytest.raises(RequestError, match="empty"):
        engine.embed(["x", ""])
    with pytest.raises(RequestError, match="context window"):
        engine.embed(["x " * 10_000])
    with pytest.raises(RequestError, match="adapter"):
        engine.embed(["x"], adapter="none")
