"""Several answers to one prompt are those that their seeds give alone."""

import dataclasses

import pytest
from test_engine import what

from deepseek.core.errors import RequestError
from deepseek.core.llm import SamplingParams
from deepseek.engine.engine import Engine
from deepseek.engine.samples import mean_logprob, samples

PROMPT = "You may reproduce and distribute"
PARAMS = SamplingParams(max_tokens=12, temperature=1.0, seed=20)


def test_each_is_the_answer_of_its_seed(engine: Engine) -> None:
    found = samples(engine.generate_many, PROMPT, PARAMS, n=3)
    assert len({one.text for one in found}) == 3
    for i, one in enumerate(found):
        engine.forget()
        alone = engine.generate(PROMPT, dataclasses.replace(PARAMS, seed=20 + i))
        assert what(one) == what(alone)


def test_the_best_have_the_highest_mean_logprob(engine: Engine) -> None:
    params = dataclasses.replace(PARAMS, logprobs=0)
    drawn = samples(engine.generate_many, PROMPT, params, n=5)
    means = sorted(sum(t.logprob for t in c.logprobs) / len(c.logprobs) for c in drawn)
    best = samples(engine.generate_many, PROMPT, PARAMS, n=2, best_of=5)
    assert all(one.logprobs == () for one in best)
    named = samples(engine.generate_many, PROMPT, params, n=2, best_of=5)
    assert [mean_logprob(one) for one in named] == pytest.approx(means[:-3:-1], abs=1e-4)
    assert [one.token_ids for one in named] == [one.token_ids for one in best]


@pytest.mark.parametrize(
    ("n", "best_of", "what_is"),
    [(0, None, "n is 0"), (65, None, "n is 65"), (3, 2, "best_of is 2"), (1, 65, "best_of is 65")],
)
def test_numbers_are_bounded(engine: Engine, n: int, best_of: int | None, what_is: str) -> None:
    with pytest.raises(RequestError, match=what_is):
        samples(engine.generate_many, PROMPT, PARAMS, n=n, best_of=best_of)


def test_greedy_answers_are_not_drawn_twice(engine: Engine) -> None:
    with pytest.raises(RequestError, match="all the same"):
        samples(engine.generate_many, PROMPT, SamplingParams(), n=2)
    assert len(samples(engine.generate_many, PROMPT, SamplingParams(max_tokens=2))) == 1


def test_a_token_outside_the_vocabulary_is_refused(engine: Engine) -> None:
    with pytest.raises(RequestError, match="logit_bias names token 999999"):
        engine.generate(PROMPT, SamplingParams(logit_bias={999_999: 1.0}))
    biased = engine.generate(PROMPT, SamplingParams(max_tokens=5, logit_bias={65: 100.0}))
    assert set(biased.token_ids) == {65}
