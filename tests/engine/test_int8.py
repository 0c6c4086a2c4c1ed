"""8-bit products on real weights, beside the same weights as float32 numbers."""

from pathlib import Path

import pytest

from deepseek.core.errors import ConfigError
from deepseek.core.llm import SamplingParams
from deepseek.engine.loader import load_engine
from deepseek.ops import native
from deepseek.ops.linear import QuantisedWeight

TEXT = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.weights
@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
def test_distributions_stay_close(smollm2_path: Path) -> None:
    engine, report = load_engine(str(smollm2_path), dtype="int8")
    reference, _ = load_engine(str(smollm2_path), dtype="float32")
    assert "computed in int8" in report.weights
    assert isinstance(engine.runner.model.blocks[0].attention.qkv.packed, QuantisedWeight)
    ids = engine.encode(TEXT)[:400]
    ours, theirs = (e.logits(ids).double().log_softmax(-1) for e in (engine, reference))
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)
    assert float(divergence.median()) < 0.01
    assert float((ours.argmax(-1) == theirs.argmax(-1)).double().mean()) > 0.9
    params = SamplingParams(max_tokens=2)
    prompt = "The capital of France is"
    assert engine.generate(prompt, params).text == reference.generate(prompt, params).text
    # What was packed can be read again, as saving and training need it.
    head = engine.runner.model.head.dense_weight()
    wanted = reference.runner.model.head.dense_weight()
    assert float((head - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())


def test_without_kernels_it_says_so(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    assert not native.is_available()
    assert native.level() == "none"
    with pytest.raises(ConfigError, match="not built"):
        load_engine(str(tiny_folder), dtype="int8")


@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
def test_plain_numbers_stay_plain(tiny_folder: Path) -> None:
    """A checkpoint that is not quantised is computed as it is."""
    engine, _ = load_engine(str(tiny_folder), dtype="int8", threads=1)
    assert not isinstance(engine.runner.model.head.packed, QuantisedWeight)
    assert engine.generate("Hello", SamplingParams(max_tokens=3)).token_ids
