"""Requests with adapters side by side: each answers as it would alone, and nothing is shared."""

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_engine import what
from test_scheduler import completion, no_page_is_lost, random_ids, random_prompts, runner_of
from tiny_native import native_engine, native_model

from deepseek.core.errors import CheckpointError, ConfigError, ContextError, RequestError
from deepseek.core.llm import Message, SamplingParams, ScoreRequest
from deepseek.engine.answer import Answer
from deepseek.engine.engine import Engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.engine.request import AnswerStream, Request
from deepseek.engine.scheduler import Limits, Scheduler
from deepseek.engine.torch_runner import TorchRunner
from deepseek.model.adapter import fit, native_bytes
from deepseek.model.budget import ROWS, Budget, Needs, PageCounts, plan
from deepseek.ops import native
from deepseek.ops.cold import choose_tier
from deepseek.ops.hierarchical import PAGE, Hierarchy
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.weights.adapter import read_adapter
from peft_adapter import random_adapter
from tiny_checkpoint import tiny_config, tiny_model

NAMES = ("a", "b", "c")
EACH = (None, *NAMES)
PROMPT = "You may reproduce and distribute copies of the Work"
LONG_PROMPT = PROMPT * 12
PARAMS = SamplingParams(max_tokens=12, temperature=1.0, seed=11)
TINY_HIERARCHY = Hierarchy(sinks=64, window=64, recall=64, dense=128, reach=1_024)
needs_kernels = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters of different ranks; one leaves some matrices alone."""
    place, config = tmp_path_factory.mktemp("adapters"), tiny_config()
    return {
        "a": random_adapter(place / "a", config, rank=16, seed=1),
        "b": random_adapter(place / "b", config, rank=3, seed=2, size=0.6),
        "c": random_adapter(place / "c", config, modules=["k_proj", "up_proj"], seed=3, size=1.0),
    }


def torch_engine(tiny_folder: Path) -> Engine:
    tokenizer = Tokenizer.from_folder(tiny_folder)
    model = tiny_model(tiny_config())
    return Engine(model, tokenizer, name="tiny", dtype=torch.float32, device=CPU)


KINDS = ["torch", *(["native", "hierarchical", "cold"] if native.is_available() else [])]


def engine_of(kind: str, tiny_folder: Path) -> Engine:
    if kind == "torch":
        return torch_engine(tiny_folder)
    hierarchy = TINY_HIERARCHY if kind == "hierarchical" else None
    return native_engine(
        tiny_folder, hierarchy=hierarchy, tier=choose_tier("int8") if kind == "cold" else None
    )


@pytest.fixture(scope="module", params=KINDS)
def engine(
    request: pytest.FixtureRequest, tiny_folder: Path, folders: dict[str, Path]
) -> Iterator[Engine]:
    engine = engine_of(request.param, tiny_folder)
    for name, folder in folders.items():
        engine.load_adapter(name, folder)
    yield engine
    for name in folders:
        engine.unload_adapter(name)


@pytest.fixture
def fresh(tiny_folder: Path) -> Engine:
    if not native.is_available():
        pytest.skip("the kernels were not built")
    return native_engine(tiny_folder)


def alone(engine: Engine, prompt: list[int], params: SamplingParams, adapter: int) -> list[int]:
    """The slow reference: one request on one sequence that has read nothing before."""
    runner = runner_of(engine)
    runner.use(adapter)
    runner.rewind(0)
    tree, runner.tree = runner.tree, None
    answer = Answer(engine.tokenizer, params, prompt)
    answer.add(runner.read(prompt))
    while answer.finish_reason is None:
        answer.add(runner.step(answer.token_ids[-1]))
    runner.rewind(0)
    runner.tree = tree
    return answer.token_ids


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of a row's logits, relative to their size; the median of all rows."""
    return float(((a - b).norm(dim=1) / b.norm(dim=1)).median())


@needs_kernels
@torch.inference_mode()
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_native_library_agrees_with_torch(family: str, folders: dict[str, Path]) -> None:
    """Both on the same weights in 8 bits: as closely as they do without an adapter."""
    config = dataclasses.replace(tiny_config(), family=family, attention_bias=family == "qwen2")
    model = native_model(1, config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(generator=torch.Generator().manual_seed(2))
    ids = random_ids(random.Random(4), 90)
    runners = [kind(model, dtype=torch.float32, device=CPU) for kind in (TorchRunner, NativeRunner)]
    plain, ours_plain = (runner.extend(ids) for runner in runners)
    assert difference(ours_plain, plain) < 0.06
    for name, folder in folders.items():
        parts = fit(read_adapter(folder), config)
        for runner in runners:
            runner.use(runner.add_adapter(parts))
        reference, ours = (runner.extend(ids) for runner in runners)
        assert difference(ours, reference) < 0.06, name
        assert difference(plain, reference) > 0.6, name


def test_a_mixed_batch_answers_as_one_at_a_time(engine: Engine) -> None:
    prompts = [f"{PROMPT} {n % 3}" for n in range(9)]
    adapters = [EACH[n % 4] for n in range(9)]
    params = [dataclasses.replace(PARAMS, seed=n) for n in range(9)]
    wanted = []
    for prompt, one, adapter in zip(prompts, params, adapters, strict=True):
        engine.forget()
        wanted.append(what(engine.generate(prompt, one, adapter=adapter)))
    assert len({answer.text for answer in wanted}) > 6, "they say different things"
    engine.forget()
    together = dict(engine.generate_many(prompts, params, adapter=adapters))
    assert [what(together[n]) for n in range(9)] == wanted
    same = dict(engine.generate_many(prompts[:2], params[:2], adapter="a"))
    for n in range(2):
        engine.forget()
        assert what(same[n]) == what(engine.generate(prompts[n], params[n], adapter="a"))


def test_without_an_adapter_nothing_changes(engine: Engine, tiny_folder: Path) -> None:
    """To the last bit, beside requests that have one, and after they were in the cache."""
    runner = engine.runner
    kind = "torch" if isinstance(runner, TorchRunner) else "native"
    kind = "cold" if runner.tier is not None else kind
    plain = engine_of("hierarchical" if runner.hierarchy is not None else kind, tiny_folder)
    ids = engine.encode(LONG_PROMPT)
    engine.logits(ids, adapter="a")
    assert torch.equal(engine.logits(ids), plain.logits(ids))
    streams = [engine.stream(PROMPT, PARAMS, adapter=name) for name in NAMES]
    if kind == "native":  # side by side
        *_, last = engine.stream(PROMPT, PARAMS)
        assert last.completion is not None
        assert what(last.completion) == what(plain.generate(PROMPT, PARAMS))
    for stream in streams:
        list(stream)
    for one in (engine, plain):  # through torch, what is cached rounds otherwise
        one.forget()
    assert engine.score(PROMPT, [" of", " a"]) == plain.score(PROMPT, [" of", " a"])


def test_every_way_to_ask_takes_an_adapter(engine: Engine) -> None:
    """And gives what the logits say."""
    ids = engine.tokenizer.encode(PROMPT, add_bos=True)
    target = engine.encode(" of")
    for name in EACH:
        logits = engine.logits(ids, adapter=name)[-1].double()
        wanted = float(logits.log_softmax(-1)[target[0]])
        (score,) = engine.score(PROMPT, [" of"], adapter=name)
        requests = [ScoreRequest(PROMPT, (" of",)), ScoreRequest(PROMPT + " 1", (" of",))]
        many = list(engine.score_many(requests, adapter=name))
        if len(target) == 1:
            assert score.logprob == pytest.approx(wanted, abs=1e-3)
        assert many[0][0].logprob == pytest.approx(score.logprob, abs=1e-3)
        greedy = engine.generate(PROMPT, SamplingParams(max_tokens=1), adapter=name)
        assert greedy.token_ids in ((int(logits.argmax()),), ())


def test_an_unknown_name_is_refused_with_those_that_there_are(engine: Engine) -> None:
    for ask in (
        lambda: engine.generate(PROMPT, PARAMS, adapter="x"),
        lambda: engine.stream(PROMPT, PARAMS, adapter="x"),
        lambda: engine.score(PROMPT, [" a"], adapter="x"),
        lambda: engine.score_many([ScoreRequest(PROMPT, (" a",))], adapter="x"),
        lambda: engine.generate_many([PROMPT] * 2, PARAMS, adapter=["a", "x"]),
        lambda: engine.read(LONG_PROMPT, adapter="x"),
        lambda: engine.logits([5], adapter="x"),
        lambda: engine.unload_adapter("x"),
    ):
        with pytest.raises(RequestError, match="there is no adapter 'x'") as caught:
            ask()
        assert caught.value.hint == "there are: a, b, c"
    assert engine.generate(PROMPT, PARAMS).token_ids


def test_what_is_read_with_one_adapter_is_no_beginning_for_another(engine: Engine) -> None:
    wanted = {}
    for name in EACH:
        engine.forget()
        wanted[name] = what(engine.generate(LONG_PROMPT, PARAMS, adapter=name))
    engine.forget()
    for name in EACH:
        first = engine.generate(LONG_PROMPT, PARAMS, adapter=name)
        assert first.n_reused_tokens == 0
        again = engine.generate(LONG_PROMPT, PARAMS, adapter=name)
        assert again.n_reused_tokens > 0
        assert what(first) == what(again) == wanted[name]


def test_unloading_waits_for_nobody_and_gives_everything_back(
    fresh: Engine, folders: dict[str, Path]
) -> None:
    runner = runner_of(fresh)
    pool = runner.decoder.pool
    fresh.generate(LONG_PROMPT, PARAMS)
    n_before = pool.n_used
    loaded = fresh.load_adapter("a", folders["a"])
    assert loaded.rank == 16
    assert loaded.n_parameters == sum(
        p.down.numel() + p.up.numel() for p in read_adapter(folders["a"]).parts.values()
    )
    stream = fresh.stream(LONG_PROMPT, SamplingParams(max_tokens=400), adapter="a")
    assert isinstance(stream, AnswerStream)
    next(stream)
    with pytest.raises(RequestError, match="in use by 1 requests") as caught:
        fresh.unload_adapter("a")
    assert "cancel" in caught.value.hint
    stream.cancel()
    list(stream)
    assert pool.n_used > n_before
    fresh.score(LONG_PROMPT, [" of"], adapter="a")
    fresh.read(LONG_PROMPT * 2, adapter="a")
    fresh.unload_adapter("a")
    assert fresh.adapters == ()
    assert fresh.context is None, "what was read with it is gone"
    assert pool.n_used == n_before
    with pytest.raises(RequestError, match="no adapter 'a'"):
        fresh.generate(PROMPT, PARAMS, adapter="a")
    # Another one of the same name finds nothing that the first had read.
    fresh.load_adapter("a", folders["b"])
    answer = fresh.generate(LONG_PROMPT, PARAMS, adapter="a")
    assert answer.n_reused_tokens == 0
    assert fresh.adapters[0].number != loaded.number


def test_an_adapter_that_goes_before_the_first_piece_is_missed(
    tiny_folder: Path, folders: dict[str, Path]
) -> None:
    engine = torch_engine(tiny_folder)
    engine.load_adapter("a", folders["a"])
    streams = [
        engine.stream(PROMPT, PARAMS, adapter="a"),
        engine.generate_many([PROMPT], PARAMS, adapter="a"),
    ]
    engine.unload_adapter("a")
    for stream in streams:
        with pytest.raises(RequestError, match="was unloaded"):
            next(stream)
    assert engine.generate(PROMPT, PARAMS).token_ids


@needs_kernels
@pytest.mark.parametrize("hierarchy", [None, TINY_HIERARCHY], ids=["dense", "hierarchical"])
@pytest.mark.parametrize("seed", range(3))
def test_random_histories(
    seed: int, hierarchy: Hierarchy | None, tiny_folder: Path, folders: dict[str, Path]
) -> None:
    """Arrivals, cancellation and preemption; every answer is that of the request alone."""
    engine = native_engine(tiny_folder, hierarchy=hierarchy)
    numbers = [-1, *(engine.load_adapter(name, folders[name]).number for name in NAMES)]
    generator = random.Random(seed)
    prompts = random_prompts(generator, 24, 200)
    each = [generator.choice(numbers) for _ in prompts]
    params = [
        SamplingParams(max_tokens=generator.randrange(1, 40), temperature=1.0, seed=n)
        for n in range(len(prompts))
    ]
    wanted = [alone(engine, p, one, a) for p, one, a in zip(prompts, params, each, strict=True)]
    engine.forget()
    runner = runner_of(engine)
    limits = Limits(n_pages=14, n_kept=10, n_running=6)
    scheduler = Scheduler(runner.decoder, limits, runner.hierarchy)
    requests = [
        Request(p, Answer(engine.tokenizer, one, p), one.max_tokens, generator.randrange(3),
                adapter=a)
        for p, one, a in zip(prompts, params, each, strict=True)
    ]  # fmt: skip
    coming = list(requests)
    while coming or not scheduler.is_idle:
        for _ in range(generator.randrange(4)):
            if coming:
                scheduler.add(coming.pop())
        there = [*scheduler.waiting, *scheduler.running]
        if there and generator.random() < 0.05:
            generator.choice(there).cancelled = True
        scheduler.step()
    assert scheduler.counts.preempted > 0
    n_mixed = 0
    for request, answer in zip(requests, wanted, strict=True):
        end = completion(request)
        assert list(end.token_ids) == answer[: len(end.token_ids)]
        if not request.cancelled:
            assert list(end.token_ids) == answer
            n_mixed += request.adapter >= 0
    assert n_mixed > 5
    no_page_is_lost(scheduler, engine)


@needs_kernels
def test_what_others_read_is_waited_for_with_the_same_adapter_only(
    fresh: Engine, folders: dict[str, Path]
) -> None:
    number = fresh.load_adapter("a", folders["a"]).number
    runner = runner_of(fresh)
    scheduler = Scheduler(runner.decoder, Limits(n_pages=100, n_kept=100))
    beginning = random_ids(random.Random(5), 600)
    requests = []
    for n, adapter in enumerate((-1, number, number, -1)):
        ids, params = [*beginning, n + 3], SamplingParams(max_tokens=2)
        answer = Answer(fresh.tokenizer, params, ids)
        requests.append(Request(ids, answer, params.max_tokens, adapter=adapter))
        scheduler.add(requests[-1])
    scheduler.step()
    assert scheduler.running == requests[:2]
    while not scheduler.is_idle:
        scheduler.step()
    reused = [completion(request).n_reused_tokens for request in requests]
    assert reused[:2] == [0, 0]
    assert min(reused[2:]) >= 600 // PAGE * PAGE
    no_page_is_lost(scheduler, fresh)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_contexts_belong_to_their_adapter(
    kind: str, tiny_folder: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    reader, later = (engine_of(kind, tiny_folder) for _ in range(2))
    with_it, without = tmp_path / "with", tmp_path / "without"
    reader.load_adapter("a", folders["a"])
    turns = [Message("user", LONG_PROMPT)]
    context = reader.read(turns, adapter="a")
    assert context.adapter == "a"
    reader.generate("Something else meanwhile", PARAMS, adapter=None)
    assert reader.save_context(with_it).adapter is not None
    question = context.followed_by("What?")
    wanted = what(reader.generate(question, PARAMS, adapter="a"))
    assert reader.read(turns).adapter is None
    assert reader.save_context(without).adapter is None
    with pytest.raises(ContextError, match="an adapter named 'a', which is not loaded") as caught:
        later.load_context(with_it)
    assert "--adapter" in caught.value.hint
    later.load_adapter("a", folders["b"])
    with pytest.raises(ContextError, match="which is not loaded"):
        later.load_context(with_it)
    later.load_adapter("other name", folders["a"])
    loaded = later.load_context(with_it)
    assert loaded.adapter == "other name"
    answer = later.generate(loaded.followed_by("What?"), PARAMS, adapter="other name")
    assert answer.n_reused_tokens >= PAGE
    assert what(answer) == wanted
    assert later.load_context(without).adapter is None
    beside = later.generate(loaded.followed_by("What?"), PARAMS, adapter="a")
    assert beside.n_reused_tokens == 0


def test_names_and_folders_that_cannot_be_loaded(
    tiny_folder: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    engine = torch_engine(tiny_folder)
    engine.load_adapter("a", folders["a"])
    for name in ("a", "", "x\n", "n" * 300):
        with pytest.raises(ConfigError):
            engine.load_adapter(name, folders["b"])
    with pytest.raises(CheckpointError, match="is no folder"):
        engine.load_adapter("b", tmp_path / "missing")
    wide = dataclasses.replace(tiny_config(), d_ff=256)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        engine.load_adapter("b", random_adapter(tmp_path / "wide", wide))
    assert [adapter.name for adapter in engine.adapters] == ["a"]


@needs_kernels
def test_a_memory_budget_counts_adapters(
    fresh: Engine, tiny_folder: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    """They take the place of spare pages, and give them back; those of the window are nobody's."""
    loaded = fresh.load_adapter("a", folders["a"])
    wanted = what(fresh.generate(LONG_PROMPT, PARAMS, adapter="a"))
    needs = Needs(config=tiny_config(), n_bytes=0, taken=1 << 20, weights=1 << 20, has_nodes=False)
    needs = dataclasses.replace(needs, n_bytes=needs.peak(500, "bfloat16") + (4 << 20))
    budget = plan(needs, 500, "bfloat16")
    engine = native_engine(tiny_folder, budget=budget, context_window=500)
    pool, before = runner_of(engine).decoder.pool, engine.memory_plan
    assert before is not None
    assert before.of("keys and values") == pool.n_bytes
    assert before.total <= before.n_bytes == needs.n_bytes
    engine.generate(LONG_PROMPT, PARAMS)
    kept = engine.load_adapter("a", folders["a"])
    after = engine.memory_plan
    assert after is not None
    assert after.total <= after.n_bytes
    n_bytes = native_bytes(fit(read_adapter(kept.path), tiny_config()), ROWS)
    assert after.of("adapter 'a'") == n_bytes > 2 * loaded.n_parameters
    n_gone = -(-n_bytes // pool.page_bytes)
    assert before.of("keys and values") - after.of("keys and values") == n_gone * pool.page_bytes
    assert what(engine.generate(LONG_PROMPT, PARAMS, adapter="a")) == wanted
    big = random_adapter(tmp_path / "big", tiny_config(), rank=64)
    with pytest.raises(ConfigError, match=r"adapter 'b' needs .* MiB, and the memory budget") as no:
        engine.load_adapter("b", big)
    assert "left beside a context window of 500 tokens, adapter 'a'" in no.value.message
    assert "smaller context_window" in no.value.hint
    engine.unload_adapter("a")
    assert engine.memory_plan == before
    assert pool.n_used == len(runner_of(engine).tree or ())


@needs_kernels
def test_an_adapter_that_cannot_be_loaded_gives_its_memory_back(
    tiny_folder: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    pages = PageCounts(hot=200)
    budget = Budget(kv_format="bfloat16", context_window=500, pages=pages, peak_bytes=1 << 30)
    engine = native_engine(tiny_folder, budget=budget)
    pool = runner_of(engine).decoder.pool
    wide = random_adapter(tmp_path / "wide", dataclasses.replace(tiny_config(), d_ff=256))
    with pytest.raises(CheckpointError, match="does not fit"):
        engine.load_adapter("a", wide)
    assert (pool.most, pool.n_free) == (200, 200)
    # While requests run: they make way, and answer as they would alone.
    wanted = what(engine.generate(LONG_PROMPT, PARAMS))
    engine.forget()
    streams = [engine.stream(LONG_PROMPT, PARAMS) for _ in range(3)]
    next(streams[0])
    engine.load_adapter("a", folders["a"])
    for stream in streams:
        *_, last = stream
        assert last.completion is not None
        assert what(last.completion).token_ids[-5:] == wanted.token_ids[-5:]
    engine.unload_adapter("a")
    assert pool.most == 200


@needs_kernels
def test_the_largest_numbers_that_are_read_overflow_nothing(fresh: Engine, tmp_path: Path) -> None:
    """A hostile adapter spoils its own answers only."""
    config = tiny_config()
    folder = random_adapter(tmp_path / "huge", config, rank=64, size=1.0)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 1_600}))
    fresh.load_adapter("huge", folder)
    wanted = what(fresh.generate(LONG_PROMPT, PARAMS))
    fresh.forget()
    adapters = ["huge", None, "huge", None]
    got = dict(fresh.generate_many([LONG_PROMPT] * 4, PARAMS, adapter=adapters))
    assert what(got[1]) == what(got[3]) == wanted
    ids = fresh.encode(LONG_PROMPT)
    assert bool(fresh.logits(ids, adapter="huge").isfinite().all())
