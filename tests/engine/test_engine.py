"""The engine on a tiny checkpoint: answers, streams, limits, cancelling, threads."""

import contextlib
import dataclasses
import threading
from typing import Any

import pytest
import torch

from deepseek.core.errors import RequestError
from deepseek.core.llm import Completion, Message, SamplingParams
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine

PROMPT = "You may reproduce and distribute copies of the Work"
PARAMS = SamplingParams(max_tokens=40, temperature=1.0, seed=11, logprobs=3)
VARYING: dict[str, Any] = {
    "prefill_seconds": 0.0,
    "decode_seconds": 0.0,
    "n_reused_tokens": 0,
    "logprobs": (),
    "attended": None,
    "n_drafted": 0,
    "n_accepted": 0,
}


def what(completion: Completion) -> Completion:
    """A completion without what depends on the clock or the cache.

    Log-probabilities do in their last bits: a product over one row rounds unlike one over many.
    """
    return dataclasses.replace(completion, **VARYING)


def plain(engine: Engine, prompt: str, params: SamplingParams) -> Completion:
    """The answer of an engine that has read nothing before."""
    engine.forget()
    return what(engine.generate(prompt, params))


@pytest.mark.parametrize("prompt", [PROMPT, [Message("user", PROMPT)]], ids=["text", "chat"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stream_equals_generate(engine: Engine, prompt: str, seed: int) -> None:
    params = dataclasses.replace(PARAMS, seed=seed)
    whole = engine.generate(prompt, params)
    deltas = list(engine.stream(prompt, params))
    assert all(delta.completion is None for delta in deltas[:-1])
    last = deltas[-1].completion
    assert last is not None
    assert what(last) == what(whole)
    streamed, generated = ([t.logprob for t in c.logprobs] for c in (last, whole))
    assert streamed == pytest.approx(generated, abs=1e-4)
    assert "".join(delta.text for delta in deltas) == whole.text
    assert len(deltas) > 5


def test_a_completion_describes_itself(engine: Engine) -> None:
    engine.forget()
    completion = engine.generate(PROMPT, PARAMS)
    assert completion.finish_reason == "length"
    assert len(completion.token_ids) == 40
    assert completion.n_prompt_tokens == engine.count_tokens(PROMPT)
    assert completion.n_reused_tokens == 0
    assert completion.text == engine.tokenizer.decode(completion.token_ids)
    assert completion.prefill_seconds > 0
    assert completion.decode_seconds > 0


@torch.inference_mode()
def test_logprobs_are_those_of_a_full_pass(engine: Engine) -> None:
    completion = engine.generate(PROMPT, PARAMS)
    prompt = engine.tokenizer.encode(PROMPT)
    ids = [*prompt, *completion.token_ids]
    logits = engine.runner.model(torch.tensor([ids]))[0, len(prompt) - 1 : -1]
    wanted = logits.double().log_softmax(-1)
    assert [t.token_id for t in completion.logprobs] == list(completion.token_ids)
    for row, token in zip(wanted, completion.logprobs, strict=True):
        assert token.logprob == pytest.approx(float(row[token.token_id]), abs=1e-4)
        best = row.topk(3)
        assert [p for _, p in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert token.top[0][0] == engine.tokenizer.token_text(int(best.indices[0]))
        assert token.token == engine.tokenizer.token_text(token.token_id)


def test_greedy_takes_the_likeliest_token(engine: Engine) -> None:
    params = SamplingParams(max_tokens=30, logprobs=1)
    for token in engine.generate(PROMPT, params).logprobs:
        assert token.logprob == token.top[0][1]


@pytest.mark.parametrize("start", range(2, 30, 3))
def test_stop_strings_across_tokens(engine: Engine, start: int) -> None:
    """Whatever piece of the answer is the stop string, the text ends before it."""
    text = plain(engine, PROMPT, PARAMS).text
    stop = text[start : start + 5]
    params = dataclasses.replace(PARAMS, stop=("\0never\0", stop))
    stopped = engine.generate(PROMPT, params)
    assert stopped.finish_reason == "stop"
    assert stopped.text == text[: text.index(stop)]
    assert "".join(d.text for d in engine.stream(PROMPT, params)) == stopped.text


def test_end_token_ends_the_answer(engine: Engine) -> None:
    """The tiny model draws its end token sooner or later when drawing is uniform."""
    params = SamplingParams(max_tokens=1_500, temperature=100.0, seed=4)
    completion = engine.generate("a", params)
    assert completion.finish_reason == "stop"
    assert len(completion.token_ids) < 1_500
    assert not engine.tokenizer.eos_ids & set(completion.token_ids)


def test_repetition_penalty_counts_the_prompt(engine: Engine) -> None:
    """With the strongest penalty no token of prompt or answer comes again."""
    params = SamplingParams(max_tokens=40, repetition_penalty=10.0)
    completion = engine.generate(PROMPT, params)
    ids = [*engine.tokenizer.encode(PROMPT), *completion.token_ids]
    free = engine.generate(PROMPT, SamplingParams(max_tokens=40)).token_ids
    repeats = len(free) - len(set(free))
    assert len(ids) - len(set(ids)) < repeats


def test_the_context_window_holds(tiny_folder: str) -> None:
    engine, _ = load_engine(str(tiny_folder), dtype="float32", threads=1, context_window=64)
    assert engine.context_window == 64
    n_prompt = engine.count_tokens(PROMPT)
    fits = SamplingParams(max_tokens=64 - n_prompt, temperature=1.0, seed=1)
    assert engine.generate(PROMPT, fits).finish_reason in ("length", "stop")
    too_much = dataclasses.replace(fits, max_tokens=64 - n_prompt + 1)
    for ask in (engine.generate, engine.stream):
        with pytest.raises(RequestError, match="context window of 64") as caught:
            ask(PROMPT, too_much)
        assert caught.value.hint
    with pytest.raises(RequestError, match="context window of 64"):
        engine.score("x" * 500, ["y"])


def test_a_larger_window_is_read_hierarchically(tiny_folder: str) -> None:
    engine, _ = load_engine(str(tiny_folder), dtype="float32", threads=1, context_window=10**6)
    assert engine.context_window == 10**6
    exact, _ = load_engine(str(tiny_folder), dtype="float32", threads=1)
    assert engine.runner.hierarchy is not None
    ids = engine.encode("x" * 2_000)[: engine.runner.hierarchy.dense]
    assert len(ids) > 500
    assert torch.equal(engine.logits(ids), exact.logits(ids))
    completion = engine.generate("x" * 3_000, SamplingParams(max_tokens=4))
    assert completion.n_prompt_tokens > exact.context_window
    with pytest.raises(RequestError, match="at once"):
        list(engine.generate_many(["x" * 3_000, "x" * 3_000], SamplingParams(max_tokens=4)))


def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    with pytest.raises(RequestError, match="empty"):
        engine.generate("")


@pytest.mark.parametrize("n_read", [1, 3, 10])
def test_closing_a_stream_leaves_the_engine_whole(engine: Engine, n_read: int) -> None:
    wanted = plain(engine, PROMPT, PARAMS)
    engine.forget()
    stream = engine.stream(PROMPT, PARAMS)
    with contextlib.closing(stream):  # type: ignore[type-var]
        for _ in range(n_read):
            next(stream)
    assert what(engine.generate(PROMPT, PARAMS)) == wanted


def test_failing_in_the_middle_of_a_prompt_leaves_the_engine_whole(tiny_folder: str) -> None:
    class Cancelled(Exception):
        pass

    def cancel(done: int, total: int) -> None:
        if done > 0 and armed:
            raise Cancelled

    armed = True
    engine, _ = load_engine(str(tiny_folder), dtype="float32", threads=1, on_prefill=cancel)
    long = PROMPT * 100
    assert engine.count_tokens(long) > 1_024
    params = dataclasses.replace(PARAMS, max_tokens=10)
    with pytest.raises(Cancelled):
        engine.generate(long, params)
    assert 0 < len(engine.runner.tokens) < engine.count_tokens(long)
    armed = False
    completion = engine.generate(long, params)
    assert completion.n_reused_tokens > 0
    assert what(completion) == plain(engine, long, params)


def test_a_second_request_beside_an_open_stream_is_refused(engine: Engine) -> None:
    stream = engine.stream(PROMPT, PARAMS)
    next(stream)
    for ask in (engine.generate, lambda p: engine.score(p, ["a"])):
        with pytest.raises(RequestError, match="still being streamed"):
            ask(PROMPT)
    with pytest.raises(RequestError, match="still being streamed"):
        next(engine.stream(PROMPT, PARAMS))
    assert list(stream)[-1].completion is not None
    assert engine.generate(PROMPT, PARAMS).text


def test_threads_take_turns(engine: Engine) -> None:
    prompts = [f"{n} {PROMPT}" for n in range(6)]
    wanted = [plain(engine, prompt, PARAMS) for prompt in prompts]
    got: dict[int, Completion] = {}

    def ask(n: int) -> None:
        if n % 2:
            got[n] = engine.generate(prompts[n], PARAMS)
        else:
            *_, last = engine.stream(prompts[n], PARAMS)
            assert last.completion is not None
            got[n] = last.completion

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [what(got[n]) for n in range(6)] == wanted
