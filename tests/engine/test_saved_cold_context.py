"""Saved contexts whose keys and values are in 8 or 4 bits but for the first and the last ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_engine import what
from test_saved_context import GREEDY, LICENCE, QUESTIONS, SMALL, ask, engine_like

from deepseek.core.errors import ContextError
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.model.context_file import ContextFile
from deepseek.ops import native
from deepseek.ops.cold import ColdTier
from deepseek.ops.hierarchical import PAGE, QUESTION

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(not native.is_available(), reason="the kernels were not built"),
]
TEXT = LICENCE[:6_000]
TIER = ColdTier(bits=4, sinks=64, window=128, slack=256)
MODES = {"dense": (None, TIER), "hierarchical": (SMALL, replace(TIER, bits=8))}


@pytest.fixture(scope="module")
def quantised(smollm2_path: Path) -> Engine:
    return load_engine(str(smollm2_path), dtype="int8", threads=1)[0]


def native_runner(engine: Engine) -> NativeRunner:
    assert isinstance(engine.runner, NativeRunner)
    return engine.runner


def used(engine: Engine) -> tuple[int, int]:
    """Pages as they are, and cold ones."""
    decoder = native_runner(engine).decoder
    assert decoder.cold is not None
    return decoder.pool.n_used, decoder.cold.n_used


@pytest.mark.parametrize("mode", MODES)
def test_answers_equal_those_of_a_fresh_read_to_the_last_bit(
    quantised: Engine, mode: str, tmp_path: Path
) -> None:
    hierarchy, tier = MODES[mode]
    reader, later, fresh = (engine_like(quantised, hierarchy, tier=tier) for _ in range(3))
    context = reader.read(TEXT)
    ask(reader, "Something else?")
    path = tmp_path / "licence.context"
    info = reader.save_context(path)
    n_pages = context.n_tokens // PAGE
    # Sinks, window and slack as they are; all in their cold form; nothing that was given back.
    kept = (tier.sinks + tier.window + tier.slack) // PAGE
    assert [kind.n_pages for kind in info.pages if kind.name != "memory nodes"] == [kept, n_pages]
    assert kept < n_pages
    assert info.pages[-1].layout == f"int{tier.bits} codes"
    assert later.load_context(path) == context
    assert used(later) == (kept, n_pages)
    for question in QUESTIONS:
        whole = context.followed_by(question)
        got = later.generate(whole, GREEDY)
        assert got.n_reused_tokens >= context.n_tokens - PAGE - QUESTION
        fresh.forget()
        assert what(got) == what(fresh.generate(whole, GREEDY))
    later.forget()
    assert used(later) == (0, 0)


def test_what_was_given_back_is_read_again_before_it_is_saved(
    quantised: Engine, tmp_path: Path
) -> None:
    """A long answer, or a cut far back: the file is the one of a fresh read, byte for byte."""
    reader = engine_like(quantised, None, tier=TIER)
    context = reader.read(TEXT)
    reader.save_context(tmp_path / "fresh")
    runner, wanted = native_runner(reader), (tmp_path / "fresh").read_bytes()
    assert runner.is_as_read(context.n_tokens)
    runner.extend(list(range(1_000, 1_000 + 2 * TIER.slack)))
    assert not runner.is_as_read(context.n_tokens)
    reader.save_context(tmp_path / "later")
    assert (tmp_path / "later").read_bytes() == wanted
    runner.rewind(context.n_tokens // 2)
    runner.extend([5])
    assert not runner.is_as_read(context.n_tokens // 2)
    runner.rewind(0)
    reader.save_context(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == wanted
    runner.extend(list(range(1_000, 1_000 + 2 * TIER.slack)))
    runner.rewind(context.n_tokens)  # its window is made from codes now
    assert not runner.is_as_read(context.n_tokens)
    reader.save_context(tmp_path / "cut")
    assert (tmp_path / "cut").read_bytes() == wanted


@pytest.mark.parametrize(
    ("saved", "here", "hint"),
    [
        (TIER, None, 'kv_dtype="int4" (--kv-dtype int4)'),
        (None, TIER, 'kv_dtype="bfloat16" (--kv-dtype bfloat16)'),
        (TIER, replace(TIER, bits=8), 'kv_dtype="int4"'),
        (TIER, replace(TIER, window=192), "save the context anew"),
    ],
)
def test_another_format_is_named(
    quantised: Engine, saved: Any, here: Any, hint: str, tmp_path: Path
) -> None:
    reader, other = (engine_like(quantised, None, tier=tier) for tier in (saved, here))
    reader.read(LICENCE[:1_000])
    reader.save_context(tmp_path / "x.context")
    with pytest.raises(ContextError, match="holds keys and values in") as caught:
        other.load_context(tmp_path / "x.context")
    assert hint in caught.value.hint
    for tier in (saved, here):
        assert ("bfloat16" if tier is None else f"int{tier.bits}") in caught.value.message


def test_pages_that_do_not_fit_a_budget_leave_an_empty_cache(
    quantised: Engine, tmp_path: Path
) -> None:
    from deepseek.core.errors import RequestError
    from deepseek.model.budget import Budget, PageCounts

    reader = engine_like(quantised, None, tier=TIER)
    context = reader.read(TEXT)
    reader.save_context(tmp_path / "x.context")
    with ContextFile(tmp_path / "x.context") as file:
        assert file.info.n_tokens == context.n_tokens
    pages = PageCounts(hot=40, cold=context.n_tokens // PAGE - 1)
    budget = Budget(kv_format="int4", context_window=8_000, pages=pages, peak_bytes=0)
    later = engine_like(quantised, None, tier=TIER, budget=budget)
    with pytest.raises(RequestError, match="memory budget allows no more"):
        later.load_context(tmp_path / "x.context")
    assert used(later) == (0, 0)
    assert later.context is None
