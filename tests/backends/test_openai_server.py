"""A served model gives over HTTP what the engine behind it gives."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from api_server import serving

from deepseek.backends import openai_server
from deepseek.backends.openai_server import ServedModel
from deepseek.core.constraint import Constraint
from deepseek.core.errors import RequestError
from deepseek.core.llm import (
    BatchLanguageModel,
    EmbeddingModel,
    Message,
    SamplingParams,
    ScoreRequest,
)
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine

PROMPT = "You may reproduce and distribute"
PARAMS = SamplingParams(max_tokens=12, stop=("the",))
Server = tuple[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def engine(tiny_folder: Path) -> Engine:
    return load_engine(str(tiny_folder), dtype="float32", threads=1)[0]


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Server]:
    with serving(engine) as running:
        yield running


@pytest.fixture
def model(server: Server) -> ServedModel:
    return ServedModel(server[0])


def test_text_is_continued(model: ServedModel, engine: Engine) -> None:
    assert model.name == "tiny"
    assert isinstance(model, BatchLanguageModel)
    mine = model.generate(PROMPT, PARAMS)
    theirs = engine.generate(PROMPT, PARAMS)
    assert (mine.text, mine.finish_reason) == (theirs.text, theirs.finish_reason)
    assert mine.n_prompt_tokens == theirs.n_prompt_tokens


def test_an_answer_comes_in_pieces(model: ServedModel, engine: Engine) -> None:
    theirs = engine.generate(PROMPT, PARAMS)
    *pieces, last = model.stream(PROMPT, PARAMS)
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == theirs.text
    assert all(piece.completion is None for piece in pieces)
    assert last.text == ""
    assert last.completion == model.generate(PROMPT, PARAMS)
    turns = [Message("user", "Hello")]
    thought, *pieces, last = model.stream(turns, PARAMS)
    assert (thought.text, thought.reasoning) == ("", "Well.")
    assert last.completion is not None
    assert last.completion.reasoning == "Well."
    assert last.completion.text == "".join(piece.text for piece in pieces)
    assert last.completion.text == engine.generate(turns, PARAMS).text


def test_a_stream_that_is_closed_ends_the_request(engine: Engine) -> None:
    ended: list[str] = []
    with serving(engine, streams=ended) as (url, _):
        stream = ServedModel(url).stream(PROMPT, SamplingParams(max_tokens=1_500))
        assert next(stream).text
        stream.close()  # type: ignore[attr-defined]
        assert engine.generate("Hello", PARAMS).token_ids, "the model is free for others"
    assert ended == ["left"]


def test_a_stream_that_breaks_off_or_stands_still_says_so(engine: Engine) -> None:
    with serving(engine, breaks_after=2) as (url, _):
        stream = ServedModel(url).stream(PROMPT, PARAMS)
        assert next(stream).text
        with pytest.raises(RequestError, match="broke its answer off"):
            list(stream)
    goes_on = threading.Event()
    with serving(engine, goes_on=goes_on) as (url, _):
        slow = ServedModel(url, timeout=1.0)
        stream = slow.stream([Message("user", "Hello")], PARAMS)
        assert next(stream).reasoning
        with pytest.raises(RequestError, match="said nothing for 1 s"):
            list(stream)
        goes_on.set()


def test_what_fails_for_a_moment_is_tried_again(engine: Engine) -> None:
    failures = [503, 429]
    with serving(engine, failures=failures) as (url, seen):
        assert (
            ServedModel(url).generate(PROMPT, PARAMS).text == engine.generate(PROMPT, PARAMS).text
        )
        assert len(seen) == 3
        failures += [503]
        assert list(ServedModel(url).stream(PROMPT, PARAMS))[-1].completion is not None
        failures += [400]
        with pytest.raises(RequestError, match="not now"):
            ServedModel(url).generate(PROMPT, PARAMS)
        failures += [400]
        with pytest.raises(RequestError, match="not now"):
            ServedModel(url).stream(PROMPT, PARAMS)


def test_a_conversation_is_answered_and_continued(
    model: ServedModel, engine: Engine, server: Server
) -> None:
    turns = [Message("user", "Hello"), Message("assistant", "The Work")]
    assert model.generate(turns, PARAMS).text == engine.generate(turns, PARAMS).text
    assert server[1][-1]["continue_final_message"] is True
    assert model.generate(turns[:1], PARAMS).text == engine.generate(turns[:1], PARAMS).text
    assert "continue_final_message" not in server[1][-1]


def test_penalties_and_schemas_are_passed_on(model: ServedModel, server: Server) -> None:
    schema = {"type": "object"}
    params = SamplingParams(
        max_tokens=4,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={7: 1.5},
        constraint=Constraint.json_schema(schema),
    )
    model.generate([Message("user", "Hello")], params)
    sent = server[1][-1]
    assert (sent["presence_penalty"], sent["frequency_penalty"]) == (0.5, -0.5)
    assert sent["logit_bias"] == {"7": 1.5}
    assert sent["response_format"]["json_schema"]["schema"] == schema
    with pytest.raises(RequestError, match="conversations only"):
        model.generate(PROMPT, params)
    with pytest.raises(RequestError, match="knows no regular expression"):
        model.generate(PROMPT, SamplingParams(constraint=Constraint.regex("a")))


def test_scores_come_from_the_echo(model: ServedModel, engine: Engine) -> None:
    choices = (" copies of the Work", " zebra", " a")
    mine, theirs = model.score(PROMPT, choices), engine.score(PROMPT, choices)
    assert [s.n_tokens for s in mine] == [s.n_tokens for s in theirs]
    assert [s.logprob for s in mine] == pytest.approx([s.logprob for s in theirs], abs=1e-3)
    assert [s.is_greedy for s in mine] == [s.is_greedy for s in theirs]


def test_many_at_once_keep_their_places(model: ServedModel, engine: Engine) -> None:
    prompts = [f"{PROMPT} number {i}" for i in range(20)]
    together = dict(model.generate_many(prompts, PARAMS))
    assert [together[i].text for i in range(20)] == [
        engine.generate(p, PARAMS).text for p in prompts
    ]
    scores = list(model.score_many([ScoreRequest(p, (" a",)) for p in prompts]))
    wanted = [engine.score(p, [" a"])[0].logprob for p in prompts]
    assert [s[0].logprob for s in scores] == pytest.approx(wanted, abs=1e-3)


def test_what_goes_wrong_is_named(
    model: ServedModel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="context window"):
        model.generate("x " * 9_000, PARAMS)
    with pytest.raises(RequestError, match="cannot be scored over this API"):
        model.score([Message("user", "Hello")], [" a"])
    with (
        serving(engine, can_echo=False) as (url, _),
        pytest.raises(RequestError, match="does not report the log-probabilities"),
    ):
        ServedModel(url).score(PROMPT, [" a"])
    with (
        serving(engine, shift=1) as (url, _),
        pytest.raises(RequestError, match="misplaces the log-probabilities"),
    ):
        ServedModel(url).score(PROMPT, [" a"])
    monkeypatch.setattr(openai_server, "RETRIES", 0)
    with pytest.raises(RequestError, match="cannot be reached"):
        ServedModel("http://127.0.0.1:9/v1")


def test_vectors_come_in_order_and_of_length_one(model: ServedModel, engine: Engine) -> None:
    assert isinstance(model, EmbeddingModel)
    texts = [f"text {n}" for n in range(70)]
    np.testing.assert_allclose(model.embed(texts), engine.embed(texts), atol=1e-6)
    with serving(engine, n_left_out=1) as (url, _), pytest.raises(RequestError, match="left out"):
        ServedModel(url).embed(texts)
