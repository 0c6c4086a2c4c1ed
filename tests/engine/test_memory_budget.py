"""A memory budget: what fits is computed before loading, and kept while running."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_engine import what
from test_saved_context import engine_like

from deepseek.core.errors import ConfigError, RequestError
from deepseek.core.llm import SamplingParams
from deepseek.core.memory import parse_bytes, resident_bytes
from deepseek.engine.draft_model import pages_of_draft_model, shares_of_draft_model
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.model.budget import (
    KV_FORMATS,
    ROWS,
    Budget,
    Needs,
    PageCounts,
    choose_format,
    plan,
)
from deepseek.model.memory_plan import Share
from deepseek.model.pages import ColdPages, PagedSequence, PagePool
from deepseek.ops import native
from deepseek.ops.cold import choose_tier
from tiny_checkpoint import tiny_config

MIB = 1 << 20
TOLERANCE = 1.02
"""The process may hold that many times its budget at most."""
NEEDS = Needs(config=tiny_config(), n_bytes=400 * MIB, taken=100 * MIB, weights=20 * MIB)
MEASURED = """
import json, sys
from deepseek import R1Model
from deepseek.core.memory import peak_bytes
model = R1Model(
    sys.argv[1],
    memory_budget=sys.argv[2],
    context_window=int(sys.argv[3]) or None,
    kv_dtype=sys.argv[4],
)
ids = model.encode("The grass is green and the sky is blue. " * model.context_window)
prompt = model.decode(ids[: model.context_window - 40])
answer = model.generate(prompt, max_tokens=16)
peak = peak_bytes()
tiers = answer.attended.tier_bytes
print(json.dumps([model.context_window, answer.n_prompt_tokens, peak, tiers["cold"]]))
"""
is_native = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [("4GiB", 4 << 30), ("800 mb", 800_000_000), ("1.5K", 1_536), (4_096, 4_096), ("7B", 7)],
)
def test_sizes(size: int | str, n_bytes: int) -> None:
    assert parse_bytes(size) == n_bytes


@pytest.mark.parametrize("size", ["", "GiB", "-4GiB", "4 XiB", "0", "1e9", "4GiB!"])
def test_what_is_no_size(size: str) -> None:
    with pytest.raises(ConfigError, match="is no size"):
        parse_bytes(size)


def test_the_longest_context_fits_and_one_page_more_does_not() -> None:
    assert plan(NEEDS, None).context_window == tiny_config().context_window
    for name in KV_FORMATS:
        longest = NEEDS.longest(name)
        assert longest > 2_048
        budget = plan(NEEDS, longest, name)
        assert (budget.context_window, budget.kv_format) == (longest, name)
        assert budget.pages == NEEDS.pages(longest, name)
        assert budget.peak_bytes == NEEDS.peak(longest, name) <= NEEDS.n_bytes
        assert NEEDS.peak(longest + 64, name) > NEEDS.n_bytes
        with pytest.raises(ConfigError, match="the memory budget is 400 MiB") as caught:
            plan(NEEDS, longest + 64, name)
        assert f"up to {longest:,} tokens fit" in caught.value.hint


def test_formats_are_tried_from_the_most_exact_on() -> None:
    # Text and its tokens take the most of a tiny model: here they take less.
    needs = replace(NEEDS, config=replace(tiny_config(), n_layers=40))
    exact, int8, int4 = (needs.longest(name) for name in KV_FORMATS)
    assert exact < int8 < int4
    wanted = {exact: "bfloat16", exact + 64: "int8", int8: "int8", int8 + 64: "int4", int4: "int4"}
    for window, name in wanted.items():
        assert plan(needs, window).kv_format == name
        assert choose_format(needs, window) == name
    assert plan(needs, 100, "int4").kv_format == "int4"
    with pytest.raises(ConfigError, match=r"in int4 .* budget is 400 MiB"):
        plan(needs, int4 + 64)
    with pytest.raises(ConfigError) as caught:
        plan(needs, exact + 64, "bfloat16")
    assert f"{int4:,} with kv_dtype int4" in caught.value.hint
    assert choose_format(needs, 1 << 40) == "int4", "nothing fits: what goes farthest"
    # The trained window, or in the end what there is of it.
    for window, name in ((exact + 64, "int8"), (int4 + 64, "int4")):
        trained = replace(needs, config=replace(needs.config, context_window=window))
        budget = plan(trained, None)
        assert (budget.kv_format, budget.context_window) == (name, min(window, int4))


@pytest.mark.parametrize("name", KV_FORMATS)
@pytest.mark.parametrize("n_bytes", [150 * MIB, 400 * MIB])
def test_what_is_left_is_for_others_beside_it(name: str, n_bytes: int) -> None:
    needs = replace(NEEDS, n_bytes=n_bytes + 100 * MIB)
    budget = plan(needs, 2_048, name)
    alone = needs.pages(2_048, name)
    spare = budget.pages.hot - alone.hot
    assert spare > 0
    assert budget.pages.cold - alone.cold == (spare if alone.cold else 0)
    more = needs.cache_bytes(budget.pages, name) - needs.cache_bytes(alone, name)
    assert budget.peak_bytes + more <= needs.n_bytes


@pytest.mark.parametrize("name", KV_FORMATS)
@pytest.mark.parametrize("begun", [0, 37, 64, 1_000])
def test_one_sequence_needs_the_pages_that_are_computed(name: str, begun: int) -> None:
    """All passes of a long text in pools of just that size, and their bytes."""
    config, window = tiny_config(), 8_190
    counts = NEEDS.pages(window, name)
    pool, nodes = (
        PagePool(config, most=counts.hot),
        PagePool(config, has_values=False, most=counts.nodes),
    )
    held, cold, tier = pool.n_bytes + nodes.n_bytes, None, choose_tier(name)
    if tier is not None:
        cold = ColdPages(
            pool=PagePool(config, bits=tier.bits, most=counts.cold), tier=tier, expand=none_expanded
        )
        held += cold.pool.n_bytes
    assert held == NEEDS.cache_bytes(counts, name)
    sequence, most = PagedSequence(pool, nodes, cold), 0
    for n_tokens in (begun, *[ROWS] * 7, window - begun - 7 * ROWS):
        sequence.extend(n_tokens)
        most = max(most, pool.n_used)
        sequence.advance(n_tokens)
    assert most == counts.hot - (begun % 64 == 0 and tier is not None)
    if cold is not None:
        assert cold.pool.n_used == window // 64
        assert counts.cold == -(-window // 64)


@pytest.mark.parametrize("name", KV_FORMATS)
def test_the_plan_adds_up(name: str) -> None:
    """Each share is there, and all of them are what was computed for one sequence and the rest."""
    others = (Share("draft model", 7 * MIB), Share("its keys and values", 3 * MIB))
    needs = replace(NEEDS, others=others)
    budget = plan(needs, 2_048, name)
    found = budget.plan
    assert found is not None
    assert budget.least == needs.pages(2_048, name)
    assert sum(n for n, *_ in [(row[1],) for row in found.rows()[:-1]]) == found.n_bytes
    assert 0 <= found.left < 2 * MIB, "what is left is less than a page with all that belongs to it"
    assert found.of("weights") == 20 * MIB
    assert found.of("draft model") == 7 * MIB
    hot, cold = budget.pages.hot, budget.pages.cold
    sizes = found.of("keys and values") + found.of(f"keys and values in {name}")
    assert sizes + found.of("memory nodes") == needs.cache_bytes(budget.pages, name)
    assert (found.of(f"keys and values in {name}") > 0) == (cold > 0)
    assert f"{hot:,} pages of " in str(found)
    assert needs.peak(2_048, name) == NEEDS.peak(2_048, name) + 10 * MIB
    with pytest.raises(ConfigError, match="draft model 7, its keys and values 3") as caught:
        plan(needs, needs.longest(name) + 64, name)
    assert "the memory budget is 400 MiB" in caught.value.message


def test_what_a_draft_model_takes_is_what_it_reserves() -> None:
    config = tiny_config()
    shares = shares_of_draft_model(config, 5 * MIB)
    assert [share.n_bytes for share in shares[:2]] == [
        5 * MIB,
        PagePool(config, most=pages_of_draft_model().hot).n_bytes,
    ]
    assert shares[2].n_bytes > 4 * ROWS * config.d_model


def test_pages_that_are_withdrawn_take_no_memory(tmp_path: Path) -> None:
    pool = PagePool(tiny_config(), most=400)
    taken = [pool.take() for _ in range(300)]
    for part in (*pool.pages.keys, *pool.pages.values):
        part.fill_(1.0)
    for page in taken[50:]:
        pool.give_back(page)
    before = resident_bytes()
    size = pool.page_bytes
    pages = pool.withdraw(150 * size)
    assert len(pages) == 150
    assert not set(pages) & set(taken[:50])
    assert before - resident_bytes() > 120 * size, "others take memory meanwhile"
    assert (pool.most, pool.n_used, pool.n_free) == (250, 50, 200)
    assert pool.withdraw(201 * size) == []
    assert all(bool((part == 1.0).all()) for page in taken[:50] for part in pool.pages.of(page))
    for _ in range(200):
        pool.take()
    with pytest.raises(RequestError, match="all 250 pages of memory are in use"):
        pool.take()
    pool.put_back(pages)
    assert (pool.most, pool.n_used, pool.n_free) == (400, 250, 150)
    assert sorted(pool.take() for _ in range(150)) == sorted(pages)


def none_expanded(cold_page: int, page: int) -> None:
    raise AssertionError("nothing was cut")


def test_too_little_for_anything() -> None:
    for n_bytes in (1, 121 * MIB):
        with pytest.raises(ConfigError) as caught:
            plan(replace(NEEDS, n_bytes=n_bytes), None)
        assert "smaller checkpoint" in caught.value.hint


def test_plain_numbers_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="quantised weights in the native library only"):
        load_engine(str(tiny_folder), dtype="float32", threads=1, memory_budget=8 << 30)


@is_native
@pytest.mark.weights
@pytest.mark.parametrize(
    ("budget", "window", "kv_dtype"),
    [("560MiB", 0, "auto"), ("760MiB", 9_000, "auto"), ("640MiB", 4_000, "int4")],
)
def test_the_process_stays_below_it(
    smollm2_path: Path, budget: str, window: int, kv_dtype: str
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, str(smollm2_path), budget, str(window), kv_dtype],
        capture_output=True,
        text=True,
        check=True,
        timeout=500,
    )
    context_window, n_prompt, peak, cold = json.loads(run.stdout)
    assert bool(cold) == (kv_dtype == "int4")
    assert context_window == window or (not window and 500 < context_window < 8_192)
    assert n_prompt > context_window - 60
    assert peak <= parse_bytes(budget) * TOLERANCE


@is_native
@pytest.mark.weights
def test_more_than_fits_at_once_waits_its_turn(smollm2_path: Path) -> None:
    loaded = load_engine(str(smollm2_path), dtype="int8", threads=1)[0]
    pages = PageCounts(hot=18)
    budget = Budget(kv_format="bfloat16", context_window=1_000, pages=pages, peak_bytes=0)
    engine = engine_like(loaded, None, budget=budget, context_window=1_000)
    params = SamplingParams(max_tokens=8)
    kept = "Once upon a time there was a king. " * 40
    first = engine.generate(kept, params)
    prompts = [f"{number} " * 200 for number in range(6)]
    answers = dict(engine.generate_many(prompts, params))
    assert engine.runner.tier_bytes["hot"] <= 18 * needed_page(engine)
    again = engine.generate(kept, params)
    assert what(again) == what(first)
    for number, answer in answers.items():
        assert what(answer) == what(engine.generate(prompts[number], params))
    narrow = replace(budget, pages=PageCounts(hot=10))
    small = engine_like(loaded, None, budget=narrow, context_window=1_000)
    with pytest.raises(RequestError, match="there are 10") as caught:
        small.generate(kept * 2, params)
    assert "larger memory budget" in caught.value.hint


def needed_page(engine: Engine) -> int:
    assert isinstance(engine.runner, NativeRunner)
    return engine.runner.decoder.pool.page_bytes


@is_native
@pytest.mark.weights
def test_what_is_reserved_is_what_was_computed(smollm2_path: Path) -> None:
    """From the loader's plan to the pools, with and without memory nodes."""
    settings = [("int8", 20_000, "auto"), ("int4", 4_000, "dense"), ("bfloat16", 4_000, "auto")]
    for name, window, attention in settings:
        engine = load_engine(
            str(smollm2_path),
            threads=1,
            memory_budget=resident_bytes() + 1_200 * MIB,  # the tests hold much themselves
            context_window=window,
            kv_dtype=name,  # type: ignore[arg-type]
            attention=attention,  # type: ignore[arg-type]
        )[0]
        budget, config = engine.runner.budget, engine.runner.model.config
        assert budget is not None
        needs = Needs(config=config, n_bytes=1_200 * MIB, taken=0, weights=0)
        assert engine.runner.cache_bytes == needs.cache_bytes(budget.pages, name)
        assert bool(budget.pages.nodes) == (engine.runner.hierarchy is not None) == (window > 8_192)


@is_native
@pytest.mark.weights
def test_without_a_budget_memory_that_is_left_decides(smollm2_path: Path) -> None:
    """A hundred million tokens take 2.3 TB in bfloat16, and 0.7 TB in 4 bits."""
    usual, report = load_engine(str(smollm2_path), dtype="int8", threads=1)
    assert usual.runner.tier is None
    assert report.keys_and_values == "bfloat16"
    long = {"context_window": 100_000_000, "threads": 1, "dtype": "int8"}
    engine, report = load_engine(str(smollm2_path), **long)  # type: ignore[arg-type]
    assert engine.runner.tier == choose_tier("int4")
    assert "in bfloat16 100,000,000 tokens need 2," in report.keys_and_values
    assert report.keys_and_values.endswith("MiB could be had)")
    engine, report = load_engine(str(smollm2_path), kv_dtype="bfloat16", **long)  # type: ignore[arg-type]
    assert engine.runner.tier is None
    assert report.keys_and_values == "bfloat16"


def test_other_weights_are_kept_in_what_they_are_computed_in(tiny_folder: Path) -> None:
    engine, report = load_engine(str(tiny_folder), dtype="float32", threads=1)
    assert engine.runner.tier is None
    assert report.keys_and_values == "float32"
