"""8-bit products on real weights, beside the same weights as float32 numbers."""

from pathlib import Path

import pytest
import torch

from deepseek.core.errors import ConfigError
from deepseek.core.llm import SamplingParams, ScoreRequest
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
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


@pytest.mark.weights
@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
def test_nothing_around_a_request_changes_its_bits(smollm2_path: Path) -> None:
    """Alone, in a batch, with its beginning cached, in chunks and with more threads."""
    engine, _ = load_engine(str(smollm2_path), dtype="int8", threads=1)
    beginning = TEXT[:1_500]
    prompts = [beginning + f"{name}, the capital is" for name in ("France", "Peru", "In Kenya")]
    prompts += ["Once upon", beginning[:700]]
    choices = (" Paris", " Lima, of course", " a")
    params = SamplingParams(max_tokens=12)
    alone = []
    for prompt in prompts:
        engine.forget()
        alone.append((engine.score(prompt, choices), engine.generate(prompt, params).token_ids))
    native.use_threads(2)
    scores = list(engine.score_many([ScoreRequest(prompt, choices) for prompt in prompts]))
    answers = dict(engine.generate_many(prompts, params))
    together = [(scores[i], answers[i].token_ids) for i in range(len(prompts))]
    assert together == alone
    ids = engine.encode(TEXT)[:300]
    whole = engine.logits(ids)
    engine.forget()
    steps = [engine.runner.read(ids[:100])]
    steps += [engine.runner.step(token) for token in ids[100:-1]]
    assert torch.equal(torch.stack(steps), whole[99:-1])
    native.use_threads(1)


@pytest.mark.weights
@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
def test_every_page_comes_back(smollm2_path: Path) -> None:
    """Also when a batch is closed before its end."""
    engine, _ = load_engine(str(smollm2_path), dtype="int8", threads=1)
    assert isinstance(engine.runner, NativeRunner)
    pool = engine.runner.decoder.pool
    prompts = [TEXT[:400] + str(n) for n in range(5)]
    list(engine.score_many([ScoreRequest(prompt, (" a", " b c")) for prompt in prompts]))
    running = engine.generate_many(prompts, SamplingParams(max_tokens=9))
    next(running)
    running.close()
    engine.forget()
    assert pool.n_used == 0


def test_without_kernels_it_says_so(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    assert not native.is_available()
    assert native.level() == "none"
    with pytest.raises(ConfigError, match="not built"):
        load_engine(str(tiny_folder), dtype="int8")


@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
def test_plain_weights_are_rounded_while_they_are_read(tiny_folder: Path) -> None:
    """So a model that was trained or merged here has the whole native engine."""
    engine, report = load_engine(str(tiny_folder), dtype="int8", kv_dtype="int4")
    reference, plain = load_engine(str(tiny_folder), dtype="float32")
    assert isinstance(engine.runner, NativeRunner)
    assert not isinstance(reference.runner, NativeRunner)
    assert "computed in int8" in report.weights
    assert "computed in float32" in plain.weights
    packed = engine.runner.model.blocks[0].feed_forward.gate_up.dense_weight()
    wanted = reference.runner.model.blocks[0].feed_forward.gate_up.dense_weight()
    steps = wanted.view(len(wanted), -1, 32).abs().amax(-1, keepdim=True) / 127
    apart = (packed - wanted).view(len(wanted), -1, 32).abs()
    assert float((apart / steps).max()) < 0.6
    assert float(apart.max()) > 0
    ids = engine.encode(TEXT)[:300]
    ours, theirs = (e.logits(ids).double().log_softmax(-1) for e in (engine, reference))
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)
    assert float(divergence.median()) < 0.01
    assert engine.generate("one", SamplingParams(max_tokens=5)).token_ids
