"""Guessed tokens change nothing but the time: right ones, wrong ones, whosever they are."""

import itertools
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_scheduler import (
    TINY_HIERARCHY,
    alone,
    completion,
    no_page_is_lost,
    pieces,
    random_ids,
    request_of,
    runner_of,
    scheduler_of,
)
from tiny_native import native_engine, native_model
from torch import Tensor

from deepseek.core.constraint import Constraint
from deepseek.core.errors import ConfigError
from deepseek.core.llm import SamplingParams
from deepseek.engine.draft_model import SEEN, WINDOW, DraftModel, Reading, check_vocabulary
from deepseek.engine.engine import Engine
from deepseek.engine.guesses import KEPT_ANSWERS, Answers, Guess, Guesses, Recollection
from deepseek.engine.pass_times import ROWS, PassTimes
from deepseek.engine.request import Request
from deepseek.engine.scheduler import Limits, Scheduler
from deepseek.engine.speculator import GAIN, MOST, Draft, best_sizes, worth_of
from deepseek.model.budget import PageCounts
from deepseek.model.decoder import NativeDecoder
from deepseek.ops import native
from deepseek.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")

FLAT = [1.0 + 0.001 * n for n in ROWS]
"""Seconds of passes in which guesses cost nothing."""
STEEP = [float(n) for n in ROWS]


@pytest.fixture(scope="module", params=["dense", "hierarchical"])
def engine(request: pytest.FixtureRequest, tiny_folder: Path) -> Engine:
    hierarchy = TINY_HIERARCHY if request.param == "hierarchical" else None
    return native_engine(tiny_folder, hierarchy=hierarchy)


@pytest.fixture(scope="module")
def dense(tiny_folder: Path) -> Engine:
    return native_engine(tiny_folder)


class Believed(PassTimes):
    """Times that nothing seen changes."""

    def note(self, n_rows: int, seconds: float) -> None: ...


def speculating(
    engine: Engine,
    seconds: list[float],
    limits: Limits | None = None,
    draft_model: DraftModel | None = None,
) -> Scheduler:
    """A scheduler that believes that passes take so long."""
    scheduler = scheduler_of(engine, *([limits] if limits else []), draft_model=draft_model)
    assert scheduler.speculator is not None
    scheduler.speculator.times = Believed(seconds)
    return scheduler


def run(scheduler: Scheduler, requests: list[Request]) -> None:
    for request in requests:
        scheduler.add(request)
    while not scheduler.is_idle:
        scheduler.step()


def all_params(seed: int) -> list[SamplingParams]:
    """Everything that chooses a token."""
    return [
        SamplingParams(max_tokens=60),
        SamplingParams(max_tokens=60, temperature=0.7, seed=seed),
        SamplingParams(max_tokens=1),
        SamplingParams(max_tokens=50, temperature=1.0, top_k=3, seed=seed),
        SamplingParams(max_tokens=40, repetition_penalty=1.3, frequency_penalty=0.2),
        SamplingParams(max_tokens=40, logprobs=3, min_p=0.1, temperature=0.9, seed=seed),
        SamplingParams(max_tokens=40, constraint=Constraint.regex("(ab|cd)*")),
    ]


def repeating(generator: random.Random, n: int) -> list[int]:
    """A prompt in which parts come again."""
    parts = [random_ids(generator, 12) for _ in range(4)]
    return [token for _ in range(n // 12) for token in generator.choice(parts)]


@pytest.mark.parametrize("seed", range(2))
def test_answers_are_those_without_guesses(engine: Engine, seed: int) -> None:
    generator = random.Random(seed)
    params = all_params(seed)
    prompts = [repeating(generator, generator.randrange(60, 500)) for _ in params]
    wanted = [alone(engine, p, one) for p, one in zip(prompts, params, strict=True)]
    scheduler = speculating(engine, FLAT)
    for least in (0, 50):  # the second time, answers are remembered
        requests = [request_of(engine, p, one) for p, one in zip(prompts, params, strict=True)]
        run(scheduler, requests)
        ends = [completion(request) for request in requests]
        assert [end.token_ids for end in ends] == wanted
        assert sum(end.n_accepted for end in ends) > least
        assert all(end.n_accepted <= end.n_drafted for end in ends)
    no_page_is_lost(scheduler, engine)


def test_wrong_guesses_change_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses that are random, and believed."""
    generator = random.Random(5)

    def lie(guesses: Guesses, n: int) -> list[Guess]:
        return [Guess(random_ids(generator, min(n, 40)), [0.99] * min(n, 40))]

    monkeypatch.setattr(Guesses, "all", lie)
    params = [SamplingParams(max_tokens=130, temperature=1.0, seed=n) for n in range(5)]
    prompts = [random_ids(generator, generator.randrange(85, 120)) for _ in params]
    wanted = [alone(engine, p, one) for p, one in zip(prompts, params, strict=True)]
    for limits in (None, Limits(n_pages=10, n_kept=500, n_tokens_beside=128)):
        scheduler = speculating(engine, FLAT, limits)
        requests = [request_of(engine, p, one) for p, one in zip(prompts, params, strict=True)]
        run(scheduler, requests)
        ends = [completion(request) for request in requests]
        assert [end.token_ids for end in ends] == wanted
        assert sum(end.n_drafted for end in ends) > 100
        no_page_is_lost(scheduler, engine)


class Prompter:
    """Guesses of which the first is wrong and another right, from answers that are known."""

    def __init__(self, prompts: list[list[int]], wanted: list[tuple[int, ...]], seed: int) -> None:
        self.texts = [[*p, *w] for p, w in zip(prompts, wanted, strict=True)]
        self.generator = random.Random(seed)
        self.n_branched = 0

    def follow(self, guesses: Guesses, tokens: list[int]) -> None:
        self.tokens = list(tokens)

    def all(self, guesses: Guesses, n: int) -> list[Guess]:
        """A wrong one, one that is right up to somewhere, and another wrong one."""
        n_known = len(self.tokens)
        (text,) = [t for t in self.texts if t[:n_known] == self.tokens]
        right = text[n_known : n_known + self.generator.randrange(1, 9)]
        right += random_ids(self.generator, self.generator.randrange(1, 4))
        wrong = [random_ids(self.generator, self.generator.randrange(1, 9)) for _ in range(2)]
        made = [wrong[0], right, wrong[1]]
        return [
            Guess(g[:n], [c] + [0.9] * (len(g[:n]) - 1))
            for g, c in zip(made, (0.5, 0.4, 0.3), strict=True)
        ]


def prompting(
    monkeypatch: pytest.MonkeyPatch, prompts: list[list[int]], wanted: list[tuple[int, ...]]
) -> Prompter:
    """All guesses are those of a `Prompter`; branches that run are counted."""
    prompter = Prompter(prompts, wanted, seed=3)
    monkeypatch.setattr(Guesses, "follow", lambda guesses, tokens: prompter.follow(guesses, tokens))
    monkeypatch.setattr(Guesses, "all", lambda guesses, n: prompter.all(guesses, n))
    branch_off = Request.branch_off

    def counted(request: Request, tokens: list[int]) -> None:
        prompter.n_branched += 1
        branch_off(request, tokens)

    monkeypatch.setattr(Request, "branch_off", counted)
    return prompter


@pytest.mark.parametrize("n_pages", [500, 12])
def test_the_branch_that_is_chosen_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, n_pages: int
) -> None:
    generator = random.Random(6)
    params = all_params(4)
    prompts = [random_ids(generator, generator.randrange(60, 130)) for _ in params]
    wanted = [alone(engine, p, one) for p, one in zip(prompts, params, strict=True)]
    prompter = prompting(monkeypatch, prompts, wanted)
    scheduler = speculating(engine, FLAT, Limits(n_pages=n_pages, n_kept=500, n_tokens_beside=128))
    requests = [request_of(engine, p, one) for p, one in zip(prompts, params, strict=True)]
    run(scheduler, requests)
    ends = [completion(request) for request in requests]
    assert [end.token_ids for end in ends] == wanted
    assert prompter.n_branched > 20
    assert all(end.n_accepted <= end.n_drafted for end in ends)
    if n_pages == 500:
        n_tokens = sum(map(len, wanted))
        assert sum(end.n_accepted for end in ends) > n_tokens / 3
        assert scheduler.counts.passes < max(map(len, wanted))
    else:
        assert scheduler.counts.preempted
    no_page_is_lost(scheduler, engine)


@pytest.mark.parametrize("what", ["cancel", "pass", "sampler"])
def test_no_page_of_a_branch_is_lost_when_something_ends_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    generator = random.Random(8)
    prompts = [random_ids(generator, 100) for _ in range(2)]
    params = SamplingParams(max_tokens=60, temperature=1.0, seed=1)
    wanted = [alone(engine, prompt, params) for prompt in prompts]
    prompter = prompting(monkeypatch, prompts, wanted)
    scheduler = speculating(engine, FLAT)
    requests = [request_of(engine, prompt, params) for prompt in prompts]
    decoder, n_before = runner_of(engine).decoder, prompter.n_branched
    decode, choose = decoder.run, requests[0].answer.add

    def is_time() -> bool:
        return bool(requests[0].branches) and len(requests[0].answer.token_ids) > 5

    def run_and_disturb(*args: Any) -> Any:
        if is_time() and what == "pass":
            raise RuntimeError("the pass failed")
        requests[0].cancelled |= is_time() and what == "cancel"
        return decode(*args)

    def choose_or_fail(logits: Tensor) -> str:
        if is_time() and what == "sampler":
            raise RuntimeError("the sampler failed")
        return choose(logits)

    monkeypatch.setattr(decoder, "run", run_and_disturb)
    monkeypatch.setattr(requests[0].answer, "add", choose_or_fail)
    run(scheduler, requests)
    assert prompter.n_branched > n_before
    lasts = [pieces(request)[-1] for request in requests]
    if what == "cancel":
        end = lasts[0].completion
        assert end.finish_reason == "cancelled"
        assert end.token_ids == wanted[0][: len(end.token_ids)]
    else:
        assert str(lasts[0]) == f"the {what} failed"
    if what == "pass":
        assert lasts[1] is lasts[0]
    else:
        assert lasts[1].completion.token_ids == wanted[1]
    no_page_is_lost(scheduler, engine)


def test_branches_run_where_rows_cost_little_and_not_where_they_cost_much(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = random.Random(7)
    prompt, params = random_ids(generator, 70), SamplingParams(max_tokens=40)
    wanted = alone(engine, prompt, params)
    for seconds, has_branches in ((FLAT, True), ([0.7 + 0.3 * n for n in ROWS], False)):
        with monkeypatch.context() as patch:
            prompter = prompting(patch, [prompt], [wanted])
            scheduler = speculating(engine, seconds)
            request = request_of(engine, prompt, params)
            run(scheduler, [request])
            assert completion(request).n_drafted > 0
            assert bool(prompter.n_branched) == has_branches
        no_page_is_lost(scheduler, engine)


def test_no_guesses_where_they_cost_what_they_bring(engine: Engine) -> None:
    prompt = repeating(random.Random(1), 300)
    scheduler = speculating(engine, STEEP)
    request = request_of(engine, prompt, SamplingParams(max_tokens=40))
    run(scheduler, [request])
    assert completion(request).n_drafted == 0
    no_page_is_lost(scheduler, engine)


def test_the_first_pass_tells_what_passes_take(engine: Engine) -> None:
    scheduler = scheduler_of(engine)
    assert scheduler.speculator is not None
    scheduler.add(request_of(engine, [5] * 100, SamplingParams(max_tokens=20)))
    scheduler.step()
    assert not scheduler.speculator.times.is_known, "reading a prompt tells nothing of answers"
    while not scheduler.is_idle:
        scheduler.step()
    assert scheduler.speculator.times.is_known
    no_page_is_lost(scheduler, engine)


def test_no_speculation_when_it_is_off(tiny_folder: Path) -> None:
    engine = native_engine(tiny_folder, speculates=False)
    answer = engine.generate("a a a a a a a a a a a a", SamplingParams(max_tokens=30))
    assert answer.n_drafted == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_a_draft_model_changes_nothing_but_guesses_well_if_it_is_good(
    engine: Engine, seed: int, tiny_folder: Path
) -> None:
    """Seed 1 has the model's own weights, and 2 others."""
    generator = random.Random(seed)
    prompts = [random_ids(generator, generator.randrange(1, 200)) for _ in range(4)]
    params = [SamplingParams(max_tokens=60, logit_bias={2: -100.0}) for _ in prompts]
    params[0] = SamplingParams(max_tokens=60, temperature=1.0, seed=3)
    wanted = [alone(engine, p, one) for p, one in zip(prompts, params, strict=True)]
    decoder = NativeDecoder(native_model(seed))
    scheduler = speculating(engine, FLAT, draft_model=DraftModel(decoder))
    assert scheduler.speculator is not None
    requests = [request_of(engine, p, one) for p, one in zip(prompts, params, strict=True)]
    run(scheduler, requests)
    ends = [completion(request) for request in requests]
    assert [end.token_ids for end in ends] == wanted
    greedy = ends[1:]
    share = sum(end.n_accepted for end in greedy) / sum(end.n_drafted for end in greedy)
    assert (share > 0.5) == (seed == 1)
    no_page_is_lost(scheduler, engine)
    assert decoder.pool.n_used == 0, "what the draft model has read is given back"


@pytest.mark.parametrize("n_pages", [1, 3, 6])
def test_a_draft_model_with_few_pages_changes_nothing_either(dense: Engine, n_pages: int) -> None:
    """Requests without pages go on without its guesses; one is cancelled, and no page is lost."""
    generator = random.Random(n_pages)
    prompts = [random_ids(generator, generator.randrange(1, 200)) for _ in range(5)]
    params = SamplingParams(max_tokens=40, logit_bias={2: -100.0})
    wanted = [alone(dense, p, params) for p in prompts]
    decoder = NativeDecoder(native_model(1), most=PageCounts(hot=n_pages))
    scheduler = speculating(dense, FLAT, draft_model=DraftModel(decoder))
    requests = [request_of(dense, p, params) for p in prompts]
    for request in requests:
        scheduler.add(request)
    most = 0
    while not scheduler.is_idle:
        scheduler.step()
        most = max(most, decoder.pool.n_used)
        if len(requests[0].answer.token_ids) > 10:
            requests[0].cancelled = True
    ends = [completion(request) for request in requests]
    assert [end.token_ids for end in ends[1:]] == wanted[1:]
    assert ends[0].token_ids == wanted[0][: len(ends[0].token_ids)]
    assert 0 < most <= n_pages
    no_page_is_lost(scheduler, dense)
    assert decoder.pool.n_used == 0


def test_a_draft_model_reads_long_texts_in_bounded_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = NativeDecoder(native_model())
    tokens = [random_ids(random.Random(n), SEEN + n) for n in range(3)]
    alone_ = [
        DraftModel(decoder).guess([(Reading(decoder.sequence(), 0), one, 3)])[0] for one in tokens
    ]
    sizes, run_ = list[int](), decoder.run
    monkeypatch.setattr(
        decoder, "run", lambda ids, s: sizes.append(sum(map(len, ids))) or run_(ids, s)
    )
    draft_model = DraftModel(decoder)
    readings = [Reading(decoder.sequence(), 0) for _ in tokens]
    wanted = [(reading, one, 3) for reading, one in zip(readings, tokens, strict=True)]
    assert draft_model.guess(wanted) == alone_
    assert max(sizes) <= 1_024


def test_a_draft_model_begins_anew_when_a_text_is_long() -> None:
    decoder = NativeDecoder(native_model())
    draft_model = DraftModel(decoder)
    draft_model.measure()
    assert draft_model.seconds > 0
    tokens = random_ids(random.Random(3), WINDOW + 700)
    for n in (1, WINDOW - 1, WINDOW + 690):
        reading = draft_model.read(tokens[:n])
        (first,) = draft_model.guess([(reading, tokens[:n], 3)])
        (again,) = draft_model.guess([(reading, [*tokens[:n], 7, 8], 3)])
        anew = draft_model.read(tokens[:n])
        anew.start = reading.start
        assert draft_model.guess([(anew, tokens[:n], 3)]) == [first]
        anew.sequence.release()
        anew = Reading(decoder.sequence(), reading.start)
        assert draft_model.guess([(anew, [*tokens[:n], 7, 8], 3)]) == [again]
        for one in (reading, anew):
            one.sequence.release()
    reading = draft_model.read(tokens[:5])
    draft_model.guess([(reading, tokens[:5], 1)])
    draft_model.guess([(reading, tokens, 1)])
    assert reading.start == len(tokens) - SEEN
    reading.sequence.release()
    assert decoder.pool.n_used == 0


def test_a_draft_model_needs_the_same_vocabulary(
    engine: Engine, tiny_folder: Path, tmp_path: Path
) -> None:
    check_vocabulary(engine.tokenizer, engine.tokenizer)
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    numbers = content["model"]["vocab"]
    numbers["a"], numbers["b"] = numbers["b"], numbers["a"]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match="another vocabulary"):
        check_vocabulary(Tokenizer.from_folder(folder), engine.tokenizer)


def test_tenants_do_not_see_each_others_answers(engine: Engine) -> None:
    generator = random.Random(2)
    prompt = random_ids(generator, 80)
    params = SamplingParams(max_tokens=60, temperature=1.0, seed=1)
    scheduler = speculating(engine, FLAT)
    accepted = []
    for tenant in ("a", "b", "a"):
        request = request_of(engine, prompt, params)
        request.tenant = tenant
        run(scheduler, [request])
        accepted.append(completion(request).n_accepted)
    assert accepted[1] == accepted[0], "as if nobody had asked before"
    assert accepted[2] > 40
    no_page_is_lost(scheduler, engine)


def test_earlier_answers_are_parted_and_bounded() -> None:
    answers = Answers()
    answers.add([1, 2, 3])
    answers.add([4, 5])
    voice = Recollection(answers)

    def said() -> list[int]:
        return [token for token, _ in voice.path(10)]

    for token in (1, 2):
        voice.follow(token)
    assert said() == [3]
    voice.follow(3)
    assert said() == []
    for n in range(5):
        answers.add([n] * (KEPT_ANSWERS // 3))
        assert len(answers.text) <= KEPT_ANSWERS
    for token in (4, 4, 4):
        voice.follow(token)
    assert said()[:2] == [4, 4]


def slow_worth(chances: list[float], seconds: Any, n_certain: int) -> list[float]:
    """What each token of a draft saves, by trying what later passes might guess."""
    found, all_right = [], 1.0
    for place, chance in enumerate(chances):
        behind = [*chances[place:], *(chances[-1:] * len(seconds))]
        rates = []
        for size, taken in enumerate(seconds):
            products = [math.prod(behind[: n + 1]) for n in range(size)]
            rates.append((n_certain + sum(products)) / taken)
        all_right *= chance
        found.append(all_right / max(rates))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_sizes_are_the_best_ones(engine: Engine, seed: int) -> None:
    """Beside all that there are."""
    generator = random.Random(seed)
    chances = [
        [generator.uniform(0.3, 1.0) for _ in range(generator.randrange(1, 5))] for _ in "abc"
    ]
    times = PassTimes([1.0 + generator.random() / 4 * n for n in ROWS])
    taken = times.beginning_at(3, MOST + 1)
    assert taken == pytest.approx([times.at(3 + n) for n in range(MOST + 1)])
    worth = [slow_worth(some, taken, 3) for some in chances]
    for some, wanted in zip(chances, worth, strict=True):
        assert worth_of(some, taken, 3) == pytest.approx(wanted)

    def saved(sizes: tuple[int, ...]) -> float:
        gained = sum(sum(some[:size]) for some, size in zip(worth, sizes, strict=True))
        return gained - (taken[sum(sizes)] - taken[0])

    drafts = [Draft(request_of(engine, [5], SamplingParams()), some) for some in chances]
    most, found = best_sizes(drafts, taken, 3)
    best = max(saved(sizes) for sizes in itertools.product(*(range(len(c) + 1) for c in chances)))
    if best > GAIN * taken[0]:
        assert saved(tuple(found)) == pytest.approx(best)
        assert most == pytest.approx(best)
    else:
        assert not any(found)


@pytest.mark.parametrize("chance", [0.3, 0.7, 0.9, 0.97])
def test_where_all_guesses_are_alike_most_tokens_a_second_come(
    engine: Engine, chance: float
) -> None:
    """Later passes are like this one, so that it need not look ahead."""
    taken = 1.0 + 0.2 * np.arange(MOST + 1)
    rates = [sum(chance**n for n in range(size + 1)) / taken[size] for size in range(MOST + 1)]
    draft = Draft(request_of(engine, [5], SamplingParams()), [chance] * MOST)
    assert best_sizes([draft], taken, 1)[1] == [rates.index(max(rates))]


def test_it_waits_until_what_is_open_is_known(engine: Engine) -> None:
    """A copy that is found by a short match: the next pass knows whether it is one."""
    taken = 1.0 + 0.2 * np.arange(MOST + 1)

    def size(chances: list[float]) -> int:
        draft = Draft(request_of(engine, [5], SamplingParams()), chances)
        return best_sizes([draft], taken, 1)[1][0]

    assert size([0.6] + [0.99] * 40) <= 1
    assert size([0.99] * 40) > 20


def test_times_follow_what_is_seen() -> None:
    times = PassTimes()
    assert not times.is_known
    times.note(2, 1.2)
    assert times.at(1) == pytest.approx(1.0)
    assert times.at(6) == pytest.approx(2.0), "as the shape says"
    assert times.at(72) == pytest.approx(12.0 + 8 * 5.5 / 32)
    assert times.of_many == pytest.approx(5.5 / 32)
    times.note(16, 2.0)
    assert times.at(16) == pytest.approx(2.0), "the first of a kind counts most"
    assert times.at(2) == pytest.approx(1.2 * (2.0 / 3.8) ** 0.1)
    assert times.at(64) == pytest.approx(12.0 * 2.0 / 3.8), "the rest is as much faster"
    assert times.at(2) < times.at(4) < times.at(8) < 2.0
    for _ in range(100):
        times.note(8, 2.4)
        times.note(1, 1.4)
    assert times.at(8) == pytest.approx(2.4, rel=0.02)
    assert times.at(1) == pytest.approx(1.4, rel=0.02)
    times.note(8, 1_000.0)
    assert times.at(8) < 2.4 * 2**0.21, "something else took the time"
