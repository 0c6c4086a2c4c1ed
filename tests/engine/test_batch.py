"""Requests served together give what each gives alone: on fresh random prompts, float32."""

import random
from pathlib import Path

import pytest
from test_engine import what

from deepseek.core.errors import RequestError
from deepseek.core.llm import BatchLanguageModel, Message, Prompt, SamplingParams, ScoreRequest
from deepseek.engine import batch
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine

WORDS = "the Work shall mean any derivative licence that You may grant to them . , \n".split(" ")


def words(generator: random.Random, n: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(n))


def requests(seed: int) -> list[ScoreRequest]:
    """Subjects with a common beginning each, and some prompts that share nothing."""
    generator = random.Random(seed)
    made = []
    for _ in range(3):
        beginning = words(generator, generator.choice((0, 5, 80, 300)))
        for _ in range(generator.randint(1, 7)):
            prompt = f"{beginning} {words(generator, generator.randint(1, 60))}"
            choices = [
                " " + words(generator, generator.randint(1, 9))
                for _ in range(generator.randint(1, 5))
            ]
            made.append(ScoreRequest(prompt, tuple(choices)))
    return made


@pytest.mark.parametrize("seed", range(8))
def test_scores_equal_one_by_one(
    engine: Engine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "ROW_TOKENS", 200 if seed % 2 else 2_048)
    asked = requests(seed)
    together = list(engine.score_many(asked))
    engine.forget()
    for request, scores in zip(asked, together, strict=True):
        alone = engine.score(request.prompt, request.continuations)
        assert [s.n_tokens for s in scores] == [s.n_tokens for s in alone]
        assert [s.is_greedy for s in scores] == [s.is_greedy for s in alone]
        for mine, theirs in zip(scores, alone, strict=True):
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_answers_equal_one_by_one(
    engine: Engine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More prompts than run side by side, of unequal lengths, with their own settings."""
    monkeypatch.setattr(batch, "MAX_RUNNING", (1, 3, 5)[seed % 3])
    monkeypatch.setattr(batch, "ROW_TOKENS", 100 if seed % 2 else 2_048)
    generator = random.Random(100 + seed)
    prompts: list[Prompt] = [request.prompt for request in requests(seed)]
    prompts[0] = [Message("user", "Hello"), Message("assistant", "The licence")]
    params = [
        SamplingParams(
            max_tokens=generator.randint(1, 40),
            temperature=generator.choice((0.0, 1.0)),
            seed=index,
            stop=("the",) if generator.random() < 0.3 else (),
            repetition_penalty=generator.choice((1.0, 1.2)),
            frequency_penalty=generator.choice((0.0, 0.7)),
            presence_penalty=generator.choice((0.0, -0.5)),
            logit_bias={generator.randint(3, 200): 2.0},
        )
        for index in range(len(prompts))
    ]
    together = dict(engine.generate_many(prompts, params))
    assert sorted(together) == list(range(len(prompts)))
    for index, (prompt, one) in enumerate(zip(prompts, params, strict=True)):
        engine.forget()
        assert what(together[index]) == what(engine.generate(prompt, one))


@pytest.mark.weights
def test_real_weights_agree(smollm2_path: Path) -> None:
    engine, _ = load_engine(str(smollm2_path), dtype="float32")
    prompts = [
        f"Facts about geography.\nQuestion: What is the capital of {name}?\nAnswer:"
        for name in ("France", "Japan", "the United Kingdom", "Peru", "Kenya")
    ]
    params = SamplingParams(max_tokens=24, stop=("\n",))
    choices = (" Paris", " Tokyo", " London, England", " Lima", " Nairobi")
    together = dict(engine.generate_many(prompts, params))
    scores = list(engine.score_many([ScoreRequest(p, choices) for p in prompts]))
    for index, prompt in enumerate(prompts):
        engine.forget()
        assert together[index].text == engine.generate(prompt, params).text
        alone = engine.score(prompt, choices)
        assert [s.logprob for s in scores[index]] == pytest.approx(
            [s.logprob for s in alone], abs=1e-3
        )
    assert all(completion.text.strip() for completion in together.values())


def test_a_shared_beginning_is_counted(engine: Engine) -> None:
    beginning = words(random.Random(5), 100)
    prompts = [f"{beginning} {word}" for word in ("one", "two", "three")]
    reused = [c.n_reused_tokens for _, c in sorted(engine.generate_many(prompts, SamplingParams()))]
    assert reused[0] == 0
    assert min(reused[1:]) >= engine.count_tokens(beginning) - 1


def test_a_wrong_request_is_refused_before_any_runs(engine: Engine) -> None:
    with pytest.raises(RequestError, match="exceed"):
        engine.generate_many(["Hello", "x " * 5_000], SamplingParams())
    with pytest.raises(RequestError, match="empty"):
        engine.score_many([ScoreRequest("Hello", (" a",)), ScoreRequest("Hello", ("",))])
    assert list(engine.score_many([])) == []
    assert list(engine.generate_many([], SamplingParams())) == []


def test_closing_frees_the_engine(engine: Engine) -> None:
    answers = engine.generate_many(["Hello you", "Hello me"], SamplingParams(max_tokens=5))
    next(answers)
    with pytest.raises(RequestError, match="still being streamed"):
        engine.generate("Hello")
    answers.close()
    assert engine.generate("Hello", SamplingParams(max_tokens=2)).token_ids


def test_a_continuation_is_split_as_lm_eval_does(engine: Engine) -> None:
    """A space at the prompt's end belongs to the continuation."""
    spaced, joined = (
        engine.score(prompt, [text])[0]
        for prompt, text in (("The licence ", "may"), ("The licence", " may"))
    )
    assert spaced.n_tokens == joined.n_tokens
    assert spaced.logprob == pytest.approx(joined.logprob, abs=1e-4)
    assert isinstance(engine, BatchLanguageModel)


def test_an_assistant_message_is_continued(engine: Engine) -> None:
    turns = [Message("user", "Write."), Message("assistant", "The Work shall")]
    begun = engine.tokenizer.encode_chat(turns[:1]) + engine.tokenizer.encode("The Work shall")
    assert engine.generate(turns, SamplingParams(max_tokens=1)).n_prompt_tokens == len(begun)
