"""`R1Model`: what a user may pass, what comes back, and which mistakes are explained."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import deepseek
from deepseek import Constraint, DeepSeekError, Message, R1Model, SamplingParams
from deepseek.core.errors import CheckpointError, ConfigError, RequestError
from deepseek.core.llm import LanguageModel
from deepseek.r1 import conversation, default_model

QUESTION = "May I distribute copies of the Work?"


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Iterator[R1Model]:
    before = torch.get_num_threads()
    yield R1Model(tiny_folder, dtype="float32", threads=1)
    torch.set_num_threads(before)


def test_public_names() -> None:
    assert set(deepseek.__all__) <= set(dir(deepseek))
    assert all(getattr(deepseek, name) is not None for name in deepseek.__all__)
    with pytest.raises(AttributeError, match="no attribute 'R2Model'"):
        _ = deepseek.R2Model


def test_it_is_a_language_model(model: R1Model, tiny_folder: Path) -> None:
    assert isinstance(model, LanguageModel)
    assert model.name == tiny_folder.stem
    assert model.context_window == 2_048
    assert model.count_tokens("Work") >= 1


def test_settings_by_name_equal_params(model: R1Model) -> None:
    params = SamplingParams(max_tokens=12, temperature=0.9, seed=3, stop=("zzz",))
    wanted = model.generate(QUESTION, params)
    got = model.generate(QUESTION, max_tokens=12, temperature=0.9, seed=3, stop="zzz")
    assert got.token_ids == wanted.token_ids
    last = list(model.stream(QUESTION, max_tokens=12, temperature=0.9, seed=3))[-1]
    assert last.completion is not None
    assert last.completion.token_ids == wanted.token_ids


@pytest.mark.parametrize(
    "messages",
    [
        QUESTION,
        [Message("user", QUESTION)],
        [{"role": "user", "content": QUESTION}],
        ({"content": QUESTION, "role": "user"},),
    ],
    ids=["text", "message", "dict", "tuple"],
)
def test_chat_takes_turns_in_any_form(model: R1Model, messages: Any) -> None:
    assert conversation(messages) == [Message("user", QUESTION)]
    answer = model.chat(messages, max_tokens=5)
    assert answer.token_ids == model.generate([Message("user", QUESTION)], max_tokens=5).token_ids
    # The template's tokens come on top of the question's.
    assert answer.n_prompt_tokens > model.count_tokens(QUESTION)


def test_a_form_by_name_is_a_constraint(model: R1Model) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}
    by_name = model.generate(QUESTION, json_schema=schema)
    assert by_name.text in {f"[{a}, {b}]" for a in (1, 2) for b in (1, 2)}
    params = SamplingParams(constraint=Constraint.json_schema(schema))
    assert model.generate(QUESTION, params).token_ids == by_name.token_ids
    assert model.chat(QUESTION, choice=["yes", "no"]).text in ("yes", "no")
    assert model.generate(QUESTION, grammar='start: "a" "b"').text == "ab"
    assert list(model.stream(QUESTION, regex="[0-9]{3}"))[-1].completion.text.isdigit()  # type: ignore[union-attr]


def test_samples(model: R1Model) -> None:
    found = model.samples(QUESTION, n=2, best_of=3, temperature=1.0, seed=1, max_tokens=6)
    assert len(found) == 2
    assert found[0].token_ids != found[1].token_ids


def test_score(model: R1Model) -> None:
    yes, no = model.score(QUESTION, [" yes", " no"])
    assert yes.logprob < 0
    assert no.logprob < 0


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"temprature": 1.0}, "unknown setting temprature", "did you mean temperature?"),
        ({"temperature": -1.0}, "temperature is -1.0", "0 to 100"),
        ({"max_tokens": 0}, "max_tokens is 0", "1 to"),
        ({"top_p": 0.0}, "top_p is 0.0", "at most 1"),
        ({"top_k": -1}, "top_k is -1", "0 or more"),
        ({"min_p": 1.5}, "min_p is 1.5", "0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty", "above 0"),
        ({"logprobs": 51}, "logprobs is 51", "0 to 50"),
        ({"seed": -1}, "seed is -1", "0 to 2"),
        ({"stop": [""]}, "stop is", "non-empty"),
        ({"frequency_penalty": 3.0}, "frequency_penalty is 3.0", "-2 to 2"),
        ({"logit_bias": {10**6: 1.0}}, "logit_bias names token 1000000", "0 to"),
        ({"json_schema": {"type": "strnig"}}, "Invalid type: strnig", "properties"),
        ({"json_schema": "{"}, "no valid JSON", "correct it"),
        ({"regex": "("}, "regular expression cannot be used", "Rust's regex"),
        ({"choice": []}, "nothing or too much", "1 to 1,000"),
        ({"choice": ["a"], "regex": "a"}, "an answer has one constraint", "give one of"),
        ({"params": SamplingParams(), "seed": 1}, "both params", "one of the two"),
        ({"max_tokens": 2_048}, "context window of 2048", "shorten the prompt"),
    ],
)
def test_bad_settings(model: R1Model, settings: dict[str, Any], message: str, hint: str) -> None:
    for ask in (model.generate, model.stream, model.chat):
        with pytest.raises(RequestError, match=message) as caught:
            ask(QUESTION, **settings)
        assert hint in caught.value.hint


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "user"},
        {"role": "user", "content": 3},
        {"role": "user", "content": "a", "name": "b"},
        {"role": "robot", "content": "a"},
    ],
)
def test_malformed_turns(model: R1Model, turn: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="a message has"):
        model.chat([turn])


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"context_window": 3}, ConfigError, "context_window is 3"),
        ({"context_window": 10**12}, ConfigError, "context_window is"),
        ({"device": "tpu9"}, ConfigError, "device is 'tpu9'"),
        ({"dtype": "int3"}, ConfigError, "dtype is 'int3'"),
        ({"model": "no-such-model"}, DeepSeekError, "no-such-model"),
        ({"model": "./no/such/file.gguf"}, CheckpointError, "does not exist"),
    ],
)
def test_bad_models(
    tiny_folder: Path, settings: dict[str, Any], kind: type[DeepSeekError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        R1Model(**({"model": tiny_folder, "threads": 1} | settings))
    assert caught.value.hint


def test_a_window_beyond_the_trained_one(tiny_folder: Path) -> None:
    model = R1Model(tiny_folder, context_window=100_000, dtype="float32", threads=1)
    assert model.context_window == 100_000
    with pytest.raises(ConfigError, match="dense attention"):
        R1Model(tiny_folder, context_window=100_000, attention="dense")


def test_a_text_is_read_saved_and_asked(tiny_folder: Path, tmp_path: Path) -> None:
    text = "You may reproduce and distribute copies of the Work. " * 20
    model, later = (R1Model(tiny_folder, dtype="float32", threads=1) for _ in range(2))
    for asked in (model, later):
        with pytest.raises(RequestError, match="no text was read"):
            asked.ask(QUESTION)
    context = model.read(text)
    wanted = model.ask(QUESTION, max_tokens=5)
    assert wanted.token_ids == model.chat(f"{text}\n\n{QUESTION}", max_tokens=5).token_ids
    assert wanted.n_reused_tokens >= context.n_tokens - 64
    assert wanted.attended is not None
    assert wanted.attended.n_tokens == wanted.attended.window
    model.save_context(tmp_path / "text.context")
    assert later.load_context(tmp_path / "text.context") == context
    answer = later.ask(QUESTION, max_tokens=5)
    assert answer.token_ids == wanted.token_ids
    assert answer.n_reused_tokens >= context.n_tokens - 64
    with pytest.raises(RequestError, match="raw reads a text"):
        model.read([Message("user", text)], raw=True)
    with pytest.raises(RequestError, match="dense attention"):
        model.explain(text)


def test_the_default_model_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEEPSEEK_MODEL", raising=False)
    assert default_model() == "qwen2.5-coder-1.5b"
    monkeypatch.setenv("DEEPSEEK_MODEL", "smollm2-135m")
    assert default_model() == "smollm2-135m"


def test_progress_of_loading(tiny_folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    R1Model(tiny_folder, threads=1, on_load=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
    assert seen == sorted(seen)


def test_reading_is_watched_in_a_block_and_its_thread(tiny_folder: Path) -> None:
    always: list[int] = []
    model = R1Model(
        tiny_folder, dtype="float32", on_prefill=lambda done, total: always.append(total)
    )
    seen: list[int] = []
    with model.watched(lambda done, total: seen.append(total)):
        model.generate(QUESTION, max_tokens=1)
        other = threading.Thread(target=model.generate, args=("Another one.",))
        other.start()
        other.join()
    assert (len(seen), len(always)) == (1, 2)
    model.generate(f"Again: {QUESTION}", max_tokens=1)
    assert (len(seen), len(always)) == (1, 3)

    def stop(done: int, total: int) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError), model.watched(stop):
        model.generate(f"Once more: {QUESTION}", max_tokens=1)
    assert model.generate(QUESTION, max_tokens=1).token_ids  # it serves on
