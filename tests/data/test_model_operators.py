"""Operators that read with a language model: their scores, and what they drop."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek.core.errors import ConfigError
from deepseek.core.llm import LanguageModel, Score
from deepseek.data.quality.bits_per_byte import BitsPerByte
from deepseek.data.quality.config import load_clean_config
from deepseek.data.quality.document import Document
from deepseek.data.quality.operator import Context, Operator, Survey, build_operator
from deepseek.data.quality.pipeline import Pipeline
from deepseek.data.quality.semantic_entropy import SemanticEntropy
from deepseek.data.surprise import bits_per_byte
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine


@pytest.fixture(scope="module")
def engine(tiny_folder: Path) -> Iterator[Engine]:
    found, _ = load_engine(str(tiny_folder), threads=1)
    yield found
    found.close()


def made(kind: type[Operator], engine: LanguageModel, **settings: Any) -> Operator:
    context = Context(Path(), open_model=lambda name: engine)
    return build_operator(kind, {"model": "tiny", **settings}, context)


def document(text: str, number: int = 0, domain: str = "web", **metadata: Any) -> Document:
    return Document(str(number), "s", domain, text, number=number, metadata=metadata)


TEXTS = ["Licensed under the Apache License", "zq xj kw vv", "  ", "You may obtain a copy"]


def test_bits_per_byte_are_the_models_own(engine: Engine) -> None:
    found = bits_per_byte(engine, TEXTS)
    assert np.isnan(found[2])
    for i in (0, 1, 3):
        (score,) = engine.score("", [TEXTS[i]])
        wanted = -score.logprob / math.log(2) / len(TEXTS[i].encode())
        assert found[i] == pytest.approx(wanted, rel=1e-3)
        assert bits_per_byte(engine, [TEXTS[i]])[0] == pytest.approx(found[i], rel=1e-3)
    cut = bits_per_byte(engine, ["You may obtain a copy"], characters=7)
    assert cut[0] == pytest.approx(bits_per_byte(engine, ["You may"])[0], rel=1e-3)


class Narrow(LanguageModel):
    """Tokens are characters, 16 of which fit."""

    name = "narrow"
    context_window = 16

    def count_tokens(self, text: str) -> int:
        return len(text)

    def score(self, prompt: Any, continuations: Any) -> list[Score]:
        assert len(continuations[0]) < self.context_window
        return [Score(-math.log(2) * len(continuations[0].encode()), 1, False)]


def test_long_texts_are_cut_to_the_window() -> None:
    assert bits_per_byte(Narrow(), ["é" * 1_000])[0] == 1.0


def test_quantiles_are_taken_within_domains(engine: Engine) -> None:
    operator = made(BitsPerByte, engine, above=0.5)
    batch = [document(t, i, "web") for i, t in enumerate(TEXTS)]
    batch += [document(t + " for code", 4 + i, "code") for i, t in enumerate(TEXTS)]
    scores = operator.score(batch)
    domains = np.array([0] * 4 + [1] * 4, dtype=np.int32)
    numbers = np.arange(8)
    operator.settle(Survey(numbers, ["web", "code"], domains, scores, lambda found: []))
    fresh = made(BitsPerByte, engine, above=0.5)
    fresh.restore(operator.state())
    reasons = [bool(d.reason) for d in fresh.decide(batch, scores)]
    values = scores["bits_per_byte"]
    for part in (slice(0, 4), slice(4, 8)):
        own = values[part]
        limit = np.nanquantile(own, 0.5)
        assert reasons[part] == [bool(v > limit) for v in own]
        assert any(reasons[part])


def test_entropy_is_scored_where_there_is_a_question(engine: Engine) -> None:
    settings = {"samples": 4, "first": 4, "max_tokens": 4}
    operator = made(SemanticEntropy, engine, most=0.5, **settings)
    batch = [
        document("a text", 0),
        document("b", 1, question="What is granted?"),
        document("c", 2, question="What is 1 + 1?", answer=2),
    ]
    scores = operator.score(batch)
    assert np.isnan(scores["entropy"]).tolist() == [True, False, False]
    assert np.isnan(scores["pass_rate"]).tolist() == [True, True, False]
    alone = operator.score(batch[1:2])
    assert alone["entropy"][0] == scores["entropy"][1]
    kept = [not d.reason for d in operator.decide(batch, scores)]
    assert kept == [True, bool(scores["entropy"][1] <= 0.5), True]
    given = {"entropy": np.array([np.nan, 0.9, 0.0]), "pass_rate": np.array([np.nan, np.nan, 1.0])}
    decided = operator.decide(batch, given)
    assert [d.reason for d in decided] == [
        "",
        "semantic entropy 0.9 is above 0.5, and no answer is known",
        "",
    ]
    strict = made(SemanticEntropy, engine, drop_solved=True, **settings)
    assert strict.decide(batch, given)[2].reason == "all of the model's answers are right"


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (BitsPerByte, {"model": ""}, "names no model"),
        (BitsPerByte, {"characters": 0}, "characters is 0"),
        (SemanticEntropy, {"model": ""}, "names no model"),
        (SemanticEntropy, {"by": "program"}, "by is 'program'"),
        (SemanticEntropy, {"most": 2.0}, "most is 2.0"),
        (SemanticEntropy, {"samples": 1}, "samples is 1"),
    ],
)
def test_wrong_settings_are_told(
    kind: type[Operator], settings: dict[str, Any], said: str, engine: Engine
) -> None:
    with pytest.raises(ConfigError, match=said):
        made(kind, engine, **settings)


def test_the_pipeline_runs_them_in_the_main_process(engine: Engine, tmp_path: Path) -> None:
    rows = [{"text": t, "question": t} for t in (TEXTS[0], TEXTS[3], "zq xj kw vv yy")]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "in.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "clean.toml").write_text(
        '[sources.a]\npaths = ["in.jsonl"]\n'
        '[[operators]]\nuse = "bits_per_byte"\nmodel = "tiny"\nabove = 0.5\n'
        '[[operators]]\nuse = "semantic_entropy"\nmodel = "tiny"\nsamples = 2\nfirst = 2\n'
        "max_tokens = 2\nmost = 1.0\n",
        encoding="utf-8",
    )
    config = load_clean_config(tmp_path / "clean.toml", ())
    outcome = Pipeline(config, tmp_path / "out", open_model=lambda name: engine).run()
    assert outcome.tally.operators["bits_per_byte"].dropped == 1
    assert outcome.tally.operators["semantic_entropy"].seen == 2
    assert sum(outcome.tally.kept.values()) == 2


def test_without_a_way_to_open_models_it_is_told() -> None:
    operator = build_operator(BitsPerByte, {"model": "tiny"}, Context(Path()))
    with pytest.raises(ConfigError, match="none can be opened here"):
        operator.score([document("text")])
