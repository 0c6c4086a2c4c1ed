"""Requests side by side with keys and values in 8 or 4 bits: each answers as it would alone."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_scheduler import (
    TINY_HIERARCHY,
    alone,
    completion,
    random_ids,
    random_params,
    random_prompts,
    request_of,
    runner_of,
    scheduler_of,
)
from tiny_native import native_engine

from deepseek.core.errors import RequestError
from deepseek.core.llm import SamplingParams
from deepseek.engine import scheduler as scheduling
from deepseek.engine.engine import Engine
from deepseek.engine.radix import RadixTree
from deepseek.engine.request import Request
from deepseek.engine.scheduler import Limits, Scheduler
from deepseek.engine.sharing import shareable_length
from deepseek.model.pages import GONE, ColdPages, PagedSequence, PagePool
from deepseek.ops import native
from deepseek.ops.cold import ColdTier
from deepseek.ops.hierarchical import PAGE
from tiny_checkpoint import tiny_config

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")

TIER = ColdTier(bits=4, sinks=64, window=128, slack=256)
KINDS = {"dense": (None, TIER), "hierarchical": (TINY_HIERARCHY, replace(TIER, bits=8))}
N_WINDOW = 2
WIDE = Limits(n_pages=500, n_kept=500, n_tokens=256, n_tokens_beside=128)


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest, tiny_folder: Path) -> Engine:
    hierarchy, tier = KINDS[request.param]
    return native_engine(tiny_folder, hierarchy=hierarchy, tier=tier)


@pytest.fixture(autouse=True)
def _short_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short texts have pages that are seen as codes only."""
    monkeypatch.setattr(scheduling, "SLACK", 128)


def run(scheduler: Scheduler, requests: list[Request]) -> None:
    for request in requests:
        scheduler.add(request)
    while not scheduler.is_idle:
        scheduler.step()


def no_page_is_lost(scheduler: Scheduler, engine: Engine) -> None:
    decoder = runner_of(engine).decoder
    assert scheduler.is_idle
    assert decoder.cold is not None
    assert decoder.pool.n_used == scheduler.tree.n_exact == scheduler.tree.n_unused
    assert decoder.cold.n_used == len(scheduler.tree) == scheduler.tree.n_unused_cold
    scheduler.tree.clear()
    assert [pool.n_used for pool in decoder.pools] == [0] * len(decoder.pools)


@pytest.mark.parametrize("seed", range(2))
def test_random_arrivals_equal_one_by_one(engine: Engine, seed: int) -> None:
    """In batches, in chunks, after beginnings of others, with guesses, and with few pages."""
    generator = random.Random(seed)
    prompts = random_prompts(generator, 8, 900)
    params = [random_params(generator, 30) for _ in prompts]
    wanted = [alone(engine, prompt, one) for prompt, one in zip(prompts, params, strict=True)]
    few = Limits(n_pages=22, n_kept=22, n_cold=30, n_running=4, n_tokens=256, n_tokens_beside=128)
    n_preempted = 0
    for limits in (WIDE, few):
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
            assert runner_of(engine).decoder.pool.n_used <= limits.n_pages
        got = [completion(request) for request in requests]
        assert [c.token_ids for c in got] == wanted
        n_preempted += scheduler.counts.preempted
        if limits is WIDE:
            assert max(c.n_reused_tokens for c in got) > 0
        no_page_is_lost(scheduler, engine)
    assert n_preempted > 0


def test_a_long_prompt_takes_few_pages_as_they_are(engine: Engine) -> None:
    """One that would not fit as it is; what the tree keeps of it makes way for the next."""
    prompts = [random_ids(random.Random(n), 1_500) for n in range(2)]
    params = SamplingParams(max_tokens=5)
    wanted = [alone(engine, prompt, params) for prompt in prompts]
    limits = Limits(n_pages=12, n_kept=12, n_cold=60, n_tokens=256, n_tokens_beside=128)
    scheduler = scheduler_of(engine, limits)
    for _ in range(2):
        requests = [request_of(engine, prompt, params) for prompt in prompts]
        for request in requests:
            scheduler.check(request.prompt_ids, 5)
        run(scheduler, requests)
        assert [completion(request).token_ids for request in requests] == wanted
    with pytest.raises(RequestError, match=r"need 61 pages in int\d of memory, and there are 60"):
        scheduler.check([1] * 3_800, 100)
    no_page_is_lost(scheduler, engine)


def test_what_prompts_begin_with_is_shared(engine: Engine) -> None:
    beginning = random_ids(random.Random(5), 900)
    params = SamplingParams(max_tokens=3)
    prompts = [[*beginning, *random_ids(random.Random(n), 150)] for n in range(4)]
    wanted = [alone(engine, prompt, params) for prompt in prompts]
    scheduler = scheduler_of(engine, WIDE)
    requests = [request_of(engine, prompt, params) for prompt in prompts]
    for request in requests:
        scheduler.add(request)
    decoder, shared = runner_of(engine).decoder, 0
    while not scheduler.is_idle:
        scheduler.step()
        assert decoder.cold is not None
        shared = max(shared, *decoder.cold._users)
    ends = [completion(request) for request in requests]
    assert [end.token_ids for end in ends] == wanted
    assert ends[0].n_reused_tokens == 0
    assert min(end.n_reused_tokens for end in ends[1:]) >= 900 - PAGE
    assert shared >= 4, "the tree and three requests at least"
    no_page_is_lost(scheduler, engine)


def test_where_only_codes_are_left_a_prompt_is_read_again(engine: Engine) -> None:
    """The tree says so, and the answer is the same; then the place is one to go on from."""
    beginning = random_ids(random.Random(6), 960)
    params = SamplingParams(max_tokens=3)
    prompts = [[*beginning, *random_ids(random.Random(n), 400)] for n in range(3)]
    wanted = [alone(engine, prompt, params) for prompt in prompts]
    scheduler = scheduler_of(engine, WIDE)
    run(scheduler, [first := request_of(engine, prompts[0], params)])
    assert completion(first).token_ids == wanted[0]
    tree = scheduler.tree
    n_kept = TIER.sinks // PAGE + N_WINDOW
    while tree.n_exact > n_kept and tree.give_up():
        pass
    n_prompt = len(prompts[0])
    n_shareable = shareable_length(n_prompt, runner_of(engine).hierarchy)
    assert (tree.n_exact, len(tree)) == (n_kept, n_shareable // PAGE)
    run(scheduler, [again := request_of(engine, prompts[1], params)])
    assert completion(again).token_ids == wanted[1]
    assert str(again.miss) == "kept in fewer bits"
    assert again.n_reused < 960 - PAGE
    while tree.n_exact > n_kept + N_WINDOW + N_WINDOW:
        assert tree.give_up()
    run(scheduler, [third := request_of(engine, prompts[2], params)])
    assert completion(third).token_ids == wanted[2]
    assert third.n_reused >= 960 - PAGE, "where prompts part, the window is kept longest"
    no_page_is_lost(scheduler, engine)


def test_cancelling_and_soak(engine: Engine) -> None:
    generator = random.Random(7)
    limits = Limits(
        n_pages=24, n_kept=12, n_cold=40, n_running=5, n_tokens=256, n_tokens_beside=128
    )
    scheduler = scheduler_of(engine, limits)
    requests = [
        request_of(engine, prompt, random_params(generator, 30), generator.randrange(3))
        for prompt in random_prompts(generator, 40, 800)
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
    assert n_cancelled == sum(request.cancelled for request in requests) > 3
    for request, end in list(zip(requests, ends, strict=True))[::5]:
        whole = alone(engine, request.prompt_ids, request.answer._params)
        assert end.token_ids == whole[: len(end.token_ids)]
    no_page_is_lost(scheduler, engine)


def test_the_engine_answers_side_by_side_and_scores_in_between(engine: Engine) -> None:
    """The runner's sequence and requests take pages from each other, as without a tier."""
    beginning = random_ids(random.Random(8), 800)
    params = SamplingParams(max_tokens=6)
    prompts = [[*beginning, *random_ids(random.Random(n), 90)] for n in range(3)]
    wanted = [alone(engine, prompt, params) for prompt in prompts]
    runner = runner_of(engine)
    with torch.inference_mode():
        tree, runner.tree = runner.tree, None
        logits = runner.read(prompts[0])
        runner.rewind(0)
        runner.tree = tree
    engine.forget()
    streams = [engine._submit(list(prompt), params) for prompt in prompts]
    next(streams[0])
    with engine._turn(), torch.inference_mode():
        assert torch.equal(runner.read(prompts[0]), logits)
    assert [stream.result().token_ids for stream in streams] == wanted
    engine.forget()
    with engine._turn(), torch.inference_mode():
        runner.read(prompts[1])
    got = engine._submit(list(prompts[2]), params).result()
    assert got.token_ids == wanted[2]
    assert got.n_reused_tokens >= (890 - 128) // PAGE * PAGE
    engine.forget()
    assert [pool.n_used for pool in runner.decoder.pools] == [0] * len(runner.decoder.pools)


@pytest.mark.parametrize("seed", range(6))
def test_the_tree_gives_only_what_can_be_gone_on_from(seed: int) -> None:
    """Random histories: each match has its first pages and its window, and nothing else could be
    longer; every page comes back."""
    generator = random.Random(seed)
    config = tiny_config()
    pool, cold = PagePool(config), PagePool(config, bits=4)
    tree = RadixTree(pool, most=12, cold=cold, tier=TIER)
    pages = ColdPages(pool=cold, tier=replace(TIER, slack=64), expand=lambda *_: None)
    known, running = list[list[int]](), list[PagedSequence]()
    for _ in range(60):
        if running and generator.random() < 0.4:
            running.pop(generator.randrange(len(running))).release()
            tree.give_up()
        old = generator.choice(known) if known else []
        cut = generator.randrange(len(old) + 1)
        prompt = [*old[:cut], *(generator.randrange(3) for _ in range(generator.randrange(1, 500)))]
        known.append(prompt)
        path = tree.path(prompt, len(prompt))
        found = tree.match(prompt, len(prompt))
        there = [node.page != GONE for node in path]

        def fits(n: int, there: list[bool] = there) -> bool:
            return all(there[: min(1, n)]) and all(there[max(0, n - N_WINDOW) : n])

        depth = max(n for n in range(len(path) + 1) if fits(n))
        assert found.length // PAGE == depth
        assert found.cold == [node.cold for node in path[:depth]]
        assert (str(found.miss) == "kept in fewer bits") == (depth < len(path))
        assert all(p == GONE for p in found.keys[1 : depth - N_WINDOW])
        sequence = PagedSequence(pool, None, pages)
        sequence.begin(found.length, found.keys, cold=found.cold)
        while sequence.length < len(prompt):
            size = min(128, len(prompt) - sequence.length)
            before = pool.n_used, cold.n_used
            missing = sequence.missing(size)
            sequence.extend(size)
            assert (pool.n_used - before[0], cold.n_used - before[1]) == (missing[0], missing[2])
            sequence.advance(size)
            tree.insert(prompt[: sequence.length], sequence)
        assert tree.n_exact <= 12 or not tree.n_unused
        running.append(sequence)
    for sequence in running:
        sequence.release()
    assert (pool.n_used, cold.n_used) == (tree.n_exact, len(tree))
    while tree.evict():
        pass
    assert (pool.n_used, cold.n_used) == (0, 0)
