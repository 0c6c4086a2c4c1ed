"""Requests side by side give what each gives alone, and every page comes back."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_native import native_engine

from deepseek.core.errors import ConfigError, RequestError
from deepseek.core.llm import Completion, SamplingParams
from deepseek.engine.answer import Answer
from deepseek.engine.engine import Engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.engine.request import Request
from deepseek.engine.scheduler import Limits, Scheduler
from deepseek.ops import native
from deepseek.ops.hierarchical import PAGE, Hierarchy

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")

WIDE = Limits(n_pages=2_000, n_kept=2_000)
TINY_HIERARCHY = Hierarchy(sinks=64, window=64, recall=64, dense=128, reach=1_024)


@pytest.fixture(scope="module", params=["dense", "hierarchical"])
def engine(request: pytest.FixtureRequest, tiny_folder: Path) -> Engine:
    hierarchy = TINY_HIERARCHY if request.param == "hierarchical" else None
    return native_engine(tiny_folder, hierarchy=hierarchy)


@pytest.fixture(scope="module")
def dense(tiny_folder: Path) -> Engine:
    return native_engine(tiny_folder)


def runner_of(engine: Engine) -> NativeRunner:
    assert isinstance(engine.runner, NativeRunner)
    return engine.runner


def scheduler_of(engine: Engine, limits: Limits = WIDE, **settings: Any) -> Scheduler:
    """A scheduler of its own over an engine's decoder, driven by the test."""
    runner = runner_of(engine)
    engine.forget()
    return Scheduler(runner.decoder, limits, runner.hierarchy, **settings)


def alone(engine: Engine, prompt: list[int], params: SamplingParams) -> tuple[int, ...]:
    """The slow reference: one request on one sequence that has read nothing before."""
    runner = runner_of(engine)
    runner.rewind(0)
    tree, runner.tree = runner.tree, None
    answer = Answer(engine.tokenizer, params, prompt)
    answer.add(runner.read(prompt))
    while answer.finish_reason is None:
        answer.add(runner.step(answer.token_ids[-1]))
    runner.rewind(0)
    runner.tree = tree
    return tuple(answer.token_ids)


def request_of(
    engine: Engine, prompt: list[int], params: SamplingParams, priority: int = 0
) -> Request:
    answer = Answer(engine.tokenizer, params, prompt)
    return Request(prompt, answer, params.max_tokens, priority)


def pieces(request: Request) -> list[Any]:
    found = []
    while not request.pieces.empty():
        found.append(request.pieces.get())
    return found


def completion(request: Request) -> Completion:
    (*_, last) = pieces(request)
    assert last.completion is not None, last
    return last.completion  # type: ignore[no-any-return]


def random_ids(generator: random.Random, n: int) -> list[int]:
    return [generator.randrange(3, 512) for _ in range(n)]


def random_prompts(generator: random.Random, n: int, longest: int) -> list[list[int]]:
    """Some begin alike."""
    beginnings = [random_ids(generator, generator.randrange(longest)) for _ in range(3)]
    prompts = []
    for _ in range(n):
        whole = [*generator.choice(beginnings), *random_ids(generator, longest)]
        prompts.append(whole[: generator.randrange(1, longest)])
    return prompts


def random_params(generator: random.Random, most: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=generator.randrange(1, most),
        temperature=generator.choice((0.0, 1.0)),
        seed=generator.randrange(1_000),
    )


def no_page_is_lost(scheduler: Scheduler, engine: Engine) -> None:
    decoder = runner_of(engine).decoder
    assert scheduler.is_idle
    assert decoder.pool.n_used == len(scheduler.tree)
    scheduler.tree.clear()
    assert [pool.n_used for pool in decoder.pools] == [0] * len(decoder.pools)


@pytest.mark.parametrize("seed", range(3))
def test_random_arrivals_equal_one_by_one(engine: Engine, seed: int) -> None:
    generator = random.Random(seed)
    prompts = random_prompts(generator, 10, 500)
    params = [random_params(generator, 30) for _ in prompts]
    wanted = [alone(engine, prompt, one) for prompt, one in zip(prompts, params, strict=True)]
    room = generator.choice((128, 256, 400))
    limits = Limits(n_pages=500, n_kept=500, n_running=4, n_tokens=2 * room, n_tokens_beside=room)
    scheduler = scheduler_of(engine, limits)
    requests = [
        request_of(engine, prompt, one, generator.randrange(3))
        for prompt, one in zip(prompts, params, strict=True)
    ]
    coming = list(requests)
    while coming or not scheduler.is_idle:
        while coming and generator.random() < 0.3:
            scheduler.add(coming.pop())
        scheduler.step()
        assert len(scheduler.running) <= limits.n_running
    got = [completion(request) for request in requests]
    assert [c.token_ids for c in got] == wanted
    assert max(c.n_reused_tokens for c in got) > 0
    no_page_is_lost(scheduler, engine)


@pytest.mark.parametrize("n_pages", [7, 10])
def test_with_few_pages_all_finish_with_the_same_answers(
    engine: Engine, n_pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ends with four pages and begins with two."""
    monkeypatch.setattr(engine.tokenizer, "eos_ids", frozenset())
    generator = random.Random(n_pages)
    prompts = [random_ids(generator, generator.randrange(85, 120)) for _ in range(4)]
    prompts.append([*prompts[0], 7, 8])
    params = [SamplingParams(max_tokens=130, temperature=1.0, seed=n) for n in range(5)]
    wanted = [alone(engine, prompt, one) for prompt, one in zip(prompts, params, strict=True)]
    limits = Limits(n_pages=n_pages, n_kept=500, n_tokens_beside=128)
    scheduler = scheduler_of(engine, limits)
    requests = [request_of(engine, p, one) for p, one in zip(prompts, params, strict=True)]
    for request in requests:
        scheduler.check(request.prompt_ids, request.max_tokens)
        scheduler.add(request)
    while not scheduler.is_idle:
        scheduler.step()
        assert runner_of(engine).decoder.pool.n_used <= limits.n_pages
    assert [completion(request).token_ids for request in requests] == wanted
    assert scheduler.counts.preempted > 0
    no_page_is_lost(scheduler, engine)


def test_soak(engine: Engine) -> None:
    """Hundreds of requests of all kinds; some are cancelled wherever they are."""
    generator = random.Random(7)
    scheduler = scheduler_of(engine, Limits(n_pages=16, n_kept=12, n_running=6))
    prompts = random_prompts(generator, 300, 200)
    requests = [
        request_of(engine, prompt, random_params(generator, 40), generator.randrange(3))
        for prompt in prompts
    ]
    coming = list(requests)
    while coming or not scheduler.is_idle:
        for _ in range(generator.randrange(3)):
            if coming:
                scheduler.add(coming.pop())
        there = [*scheduler.waiting, *scheduler.running]
        if there and generator.random() < 0.2:
            generator.choice(there).cancelled = True
        scheduler.step()
        assert not any(request.cancelled for request in scheduler.running)
    ends = [completion(request) for request in requests]
    n_cancelled = sum(end.finish_reason == "cancelled" for end in ends)
    assert n_cancelled == sum(request.cancelled for request in requests) > 10
    for request, end in zip(requests, ends, strict=True):
        assert end.token_ids == tuple(request.answer.token_ids)
    no_page_is_lost(scheduler, engine)


def test_cancelling_frees_pages_before_the_next_pass(engine: Engine) -> None:
    scheduler = scheduler_of(engine)
    pool = runner_of(engine).decoder.pool
    generator = random.Random(1)
    params = SamplingParams(max_tokens=100)
    stays, goes = (request_of(engine, random_ids(generator, 200), params) for _ in range(2))
    for request in (stays, goes):
        scheduler.add(request)
    for _ in range(3):
        scheduler.step()
    assert goes.sequence is not None
    goes.cancelled = True
    scheduler.drop_cancelled()
    assert goes.sequence is None
    assert completion(goes).finish_reason == "cancelled"
    scheduler.tree.clear()
    assert stays.sequence is not None
    assert pool.n_used == -(-stays.sequence.length // PAGE)
    while not scheduler.is_idle:
        scheduler.step()
    assert completion(stays).finish_reason in ("length", "stop")
    no_page_is_lost(scheduler, engine)


def test_an_error_in_one_answer_ends_that_request_only(dense: Engine) -> None:
    class Failing(Answer):
        def add(self, logits: torch.Tensor) -> str:
            if len(self.token_ids) == 3:
                raise ZeroDivisionError("in the sampler")
            return super().add(logits)

    scheduler = scheduler_of(dense)
    params = SamplingParams(max_tokens=12)
    prompts = [random_ids(random.Random(n), 70) for n in range(3)]
    wanted = [alone(dense, prompt, params) for prompt in prompts]
    requests = [request_of(dense, prompt, params) for prompt in prompts]
    requests[1].answer = Failing(dense.tokenizer, params, prompts[1])
    for request in requests:
        scheduler.add(request)
    while not scheduler.is_idle:
        scheduler.step()
    (*_, failure) = pieces(requests[1])
    assert isinstance(failure, ZeroDivisionError)
    for n in (0, 2):
        assert completion(requests[n]).token_ids == wanted[n]
    no_page_is_lost(scheduler, dense)


def test_who_enters_and_who_makes_way(dense: Engine) -> None:
    """Higher priorities first, then who came first; the last of the lowest is preempted."""
    scheduler = scheduler_of(dense, Limits(n_pages=8, n_kept=8))
    generator = random.Random(2)
    params = SamplingParams(max_tokens=60)
    first, second = (request_of(dense, random_ids(generator, 140), params) for _ in range(2))
    for request in (first, second):
        scheduler.add(request)
    scheduler.step()
    assert scheduler.running == [first, second]
    urgent = request_of(
        dense, random_ids(generator, 140), SamplingParams(max_tokens=20), priority=1
    )
    scheduler.add(urgent)
    scheduler.step()
    assert scheduler.running == [urgent, first]
    assert scheduler.waiting == [second]
    assert second.n_preempted == 1
    late = request_of(dense, random_ids(generator, 140), params)
    scheduler.add(late)
    ends: list[Request] = []
    while not scheduler.is_idle:
        before = [*scheduler.running, *scheduler.waiting]
        scheduler.step()
        ends += [r for r in before if r not in scheduler.running and r not in scheduler.waiting]
    assert ends == [urgent, first, second, late]
    no_page_is_lost(scheduler, dense)


def test_waiting_makes_up_for_a_low_priority(dense: Engine) -> None:
    scheduler = scheduler_of(dense, Limits(n_pages=100, n_kept=100, n_running=1))
    params = SamplingParams(max_tokens=20)
    low = request_of(dense, [5, 6, 7], params)
    scheduler.add(low)
    scheduler.add(request_of(dense, [5, 6], params, priority=1))
    for n in range(100):
        scheduler.step()
        scheduler.add(request_of(dense, [n + 3] * 9, params, priority=1))
        if low in scheduler.running:
            break
        for _ in range(20):
            scheduler.step()
    assert low in scheduler.running or low.answer.finish_reason is not None
    scheduler.fail(RuntimeError())
    no_page_is_lost(scheduler, dense)


def test_answers_go_on_while_a_long_prompt_is_read(dense: Engine) -> None:
    scheduler = scheduler_of(dense, Limits(n_pages=100, n_kept=100), speculates=False)
    talking = request_of(dense, [9] * 8, SamplingParams(max_tokens=50, temperature=1.0, seed=3))
    scheduler.add(talking)
    scheduler.step()
    long = request_of(dense, random_ids(random.Random(3), 1_000), SamplingParams(max_tokens=2))
    short = request_of(dense, random_ids(random.Random(4), 30), SamplingParams(max_tokens=2))
    scheduler.add(long)
    scheduler.step()
    scheduler.add(short)
    n_passes = 0
    while long.is_reading and talking.sequence is not None:
        n_before = len(talking.answer.token_ids)
        scheduler.step()
        n_passes += 1
        assert len(talking.answer.token_ids) == n_before + 1 or talking.sequence is None
    assert n_passes >= 4
    assert short.answer.token_ids, "a short prompt does not wait for a long one"
    while not scheduler.is_idle:
        scheduler.step()
    no_page_is_lost(scheduler, dense)


def test_what_another_is_reading_is_not_read_twice(engine: Engine) -> None:
    scheduler = scheduler_of(engine)
    beginning = random_ids(random.Random(5), 600)
    params = SamplingParams(max_tokens=3)
    prompts = [[*beginning, *random_ids(random.Random(n), 150)] for n in range(4)]
    wanted = [alone(engine, prompt, params) for prompt in prompts]
    requests = [request_of(engine, prompt, params) for prompt in prompts]
    for request in requests:
        scheduler.add(request)
    while not scheduler.is_idle:
        scheduler.step()
    ends = [completion(request) for request in requests]
    assert [end.token_ids for end in ends] == wanted
    assert ends[0].n_reused_tokens == 0
    assert min(end.n_reused_tokens for end in ends[1:]) >= 600 - PAGE
    no_page_is_lost(scheduler, engine)


def test_a_follow_up_reads_only_what_is_new(dense: Engine) -> None:
    """Also of the page that the answer before it ended in, which is copied to go on with."""
    scheduler = scheduler_of(dense)
    generator, params = random.Random(11), SamplingParams(max_tokens=7, temperature=1.0, seed=2)
    prompt, n_known = random_ids(generator, PAGE + 20), 0
    for _ in range(4):
        wanted = alone(dense, prompt, params)
        request = request_of(dense, prompt, params)
        scheduler.add(request)
        while not scheduler.is_idle:
            scheduler.step()
        end = completion(request)
        assert end.token_ids == wanted
        assert end.n_reused_tokens == n_known
        n_known = len(prompt) + len(end.token_ids) - 1  # an answer's last token is not run
        prompt = [*prompt, *end.token_ids, *random_ids(generator, 9)]
    no_page_is_lost(scheduler, dense)


@pytest.mark.parametrize("name", ["n_pages", "n_running", "n_tokens", "n_tokens_beside"])
def test_limits_with_which_nothing_would_run(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0"):
        Limits(**({"n_pages": 9, "n_kept": 0} | {name: 0}))


def test_what_can_never_fit_is_refused(dense: Engine) -> None:
    scheduler = scheduler_of(dense, Limits(n_pages=4, n_kept=4))
    scheduler.check([1] * 200, 57)
    with pytest.raises(RequestError, match="need 5 pages") as caught:
        scheduler.check([1] * 200, 58)
    assert "larger memory budget" in caught.value.hint
    for prompt in ([], [1, 512], [-1]):
        with pytest.raises(RequestError, match="has no tokens, or some"):
            scheduler.check(prompt, 5)
    whole = request_of(dense, random_ids(random.Random(1), 200), SamplingParams(max_tokens=57))
    again = request_of(dense, list(whole.prompt_ids), SamplingParams(max_tokens=57))
    for request in (whole, again):  # to the last page, also with pages of its own in the tree
        scheduler.add(request)
        while not scheduler.is_idle:
            scheduler.step()
    assert completion(again).token_ids == completion(whole).token_ids
    no_page_is_lost(scheduler, dense)
