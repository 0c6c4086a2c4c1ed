"""What was read before is not read again, and the answers stay the same."""

import dataclasses

import pytest
import torch
from test_engine import PARAMS, PROMPT, plain, what

from deepseek.core.errors import RequestError
from deepseek.core.llm import Message, SamplingParams
from deepseek.engine.engine import Engine
from deepseek.engine.runner import CHUNK

LONG = "Each Contributor hereby grants to You a perpetual, worldwide licence. " * 36


@pytest.mark.parametrize("question", [" What?", " And why does it end here?", ""])
def test_a_shared_beginning_is_reused(engine: Engine, question: str) -> None:
    wanted = plain(engine, LONG + question, PARAMS)
    engine.forget()
    engine.generate(LONG + " Another question.", PARAMS)
    completion = engine.generate(LONG + question, PARAMS)
    assert what(completion) == wanted
    assert completion.n_reused_tokens >= engine.count_tokens(LONG) - 2


def test_the_same_prompt_runs_its_last_token_only(engine: Engine) -> None:
    first = engine.generate(LONG, PARAMS)
    again = engine.generate(LONG, PARAMS)
    assert what(again) == what(first)
    assert again.n_reused_tokens == again.n_prompt_tokens - 1


def test_a_dialogue_reuses_its_history(engine: Engine) -> None:
    turns = [Message("user", LONG)]
    answer = engine.generate(turns, dataclasses.replace(PARAMS, temperature=0.0))
    turns += [Message("assistant", answer.text), Message("user", "Go on.")]
    follow_up = engine.generate(turns, PARAMS)
    assert follow_up.n_reused_tokens >= answer.n_prompt_tokens
    engine.forget()
    assert what(engine.generate(turns, PARAMS)) == what(follow_up)


def test_something_else_reuses_nothing(engine: Engine) -> None:
    engine.generate(LONG, PARAMS)
    completion = engine.generate("Zebras " + PROMPT, PARAMS)
    assert completion.n_reused_tokens == 0
    assert what(completion) == plain(engine, "Zebras " + PROMPT, PARAMS)


def test_forgetting_empties_the_cache(engine: Engine) -> None:
    engine.generate(LONG, PARAMS)
    engine.forget()
    assert engine.generate(LONG, PARAMS).n_reused_tokens == 0


@pytest.mark.parametrize("n_tokens", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7])
@torch.inference_mode()
def test_chunks_equal_one_pass(engine: Engine, n_tokens: int) -> None:
    ids = (engine.tokenizer.encode(LONG) * 3)[:n_tokens]
    seen: list[tuple[int, int]] = []
    engine.forget()
    logits = engine.runner.read(ids, lambda done, total: seen.append((done, total)))
    wanted = engine.runner.model(torch.tensor([ids]))[0, -1]
    torch.testing.assert_close(logits, wanted, atol=1e-3, rtol=0)
    assert seen == [(start, n_tokens) for start in range(0, n_tokens, CHUNK)]
    assert engine.runner.tokens == ids


@torch.inference_mode()
def test_score_is_the_sum_of_log_softmax(engine: Engine) -> None:
    continuations = [" of the Work", "x", " granted by the Licensor", " \n\t"]
    scores = engine.score(PROMPT, continuations)
    prompt = engine.tokenizer.encode(PROMPT)
    for text, score in zip(continuations, scores, strict=True):
        ids = engine.tokenizer.encode(text)
        logits = engine.runner.model(torch.tensor([prompt + ids]))[0, len(prompt) - 1 : -1]
        logprobs = logits.double().log_softmax(-1)
        wanted = float(logprobs[torch.arange(len(ids)), ids].sum())
        assert score.logprob == pytest.approx(wanted, abs=1e-3)
        assert score.n_tokens == len(ids)
        assert score.is_greedy == (logits.argmax(-1).tolist() == ids)
    assert engine.runner.tokens == prompt


def test_score_knows_the_greedy_continuation(engine: Engine) -> None:
    greedy = engine.generate(PROMPT, SamplingParams(max_tokens=1))
    scores = engine.score(PROMPT, [greedy.text, greedy.text + "Q"])
    assert scores[0].is_greedy
    assert not scores[1].is_greedy


def test_scores_do_not_depend_on_their_company(engine: Engine) -> None:
    many = engine.score(PROMPT, [" a", " bcd", " a"])
    assert many[0] == many[2]
    engine.forget()
    alone = engine.score(PROMPT, [" bcd"])[0]
    assert alone.logprob == pytest.approx(many[1].logprob, abs=1e-4)


@pytest.mark.parametrize("continuations", [[], [""], ["a", ""], ["a"] * 1_025])
def test_what_cannot_be_scored(engine: Engine, continuations: list[str]) -> None:
    with pytest.raises(RequestError):
        engine.score(PROMPT, continuations)
