"""Hundreds of mixed requests from many threads, with faults put in: nothing is left, all end."""

import sys
import threading
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from test_scheduler import TINY_HIERARCHY, runner_of
from tiny_native import native_engine

from deepseek.core.errors import RequestError
from deepseek.core.llm import SamplingParams
from deepseek.engine import engine as engine_module
from deepseek.engine.answer import Answer
from deepseek.engine.engine import Engine
from deepseek.model.budget import Budget, PageCounts
from deepseek.ops import native
from deepseek.ops.cold import ColdTier

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from mix import Mix
from soak import Soak, growth, rows_of, threads_left

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")

LICENCE = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
CLIENTS, STALLED = 10, 60.0


class PutInError(Exception):
    """Put in by a test."""


def small_engine(tiny_folder: Path, kind: str = "dense") -> Engine:
    """So few pages that two of the longest requests do not fit together."""
    pages = PageCounts(hot=24 if kind != "int8" else 16, nodes=8, cold=18)
    return native_engine(
        tiny_folder,
        budget=Budget(kv_format="bfloat16", context_window=1_000, pages=pages, peak_bytes=0),
        context_window=1_000,
        hierarchy=TINY_HIERARCHY if kind == "hierarchical" else None,
        tier=ColdTier(bits=8, sinks=64, window=128, slack=256) if kind == "int8" else None,
    )


def nothing_is_left(soak: Soak) -> None:
    assert soak.mix.tally.wrong == []
    assert soak.pages_left() == 0
    assert soak.is_idle()
    assert threads_left() == 0


@pytest.mark.parametrize(("seed", "kind"), [(1, "dense"), (2, "hierarchical"), (3, "int8")])
def test_requests_of_all_kinds_end_and_leave_nothing(
    tiny_folder: Path, seed: int, kind: str
) -> None:
    engine = small_engine(tiny_folder, kind)
    soak = Soak(engine, Mix(engine, LICENCE, seed=seed))
    soak.run(250, CLIENTS, STALLED)
    tally = soak.mix.tally
    assert tally.n_ended >= 250
    assert len(tally.ended) == 11, "all kinds"
    assert {"stop", "length", "cancelled"} <= set(tally.reasons)
    assert soak.n_preempted() > 0
    assert tally.faults == 0
    nothing_is_left(soak)


def test_faults_end_only_what_they_hit(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samplers and grammars fail while a token is chosen, and sometimes a whole pass does."""
    engine = small_engine(tiny_folder)
    soak = Soak(engine, Mix(engine, LICENCE, seed=3, faults=(PutInError,)))
    generator, decoder = Random(5), runner_of(engine).decoder
    run, logits = decoder.run, decoder.logits

    class Failing(Answer):
        """Fails in one of thirty steps, before or after the token is taken."""

        def add(self, logits: torch.Tensor) -> str:
            when = generator.randrange(60)
            if when == 0:
                raise PutInError("in the sampler")
            text = super().add(logits)
            if when == 1:
                raise PutInError("in the grammar")
            return text

        def flush(self) -> str:
            if generator.randrange(60) == 0:
                raise PutInError("at the end")
            return super().flush()

    def failing_run(*parts: Any) -> torch.Tensor:
        if threading.current_thread().name == "engine":  # scoring has no way to tell of a fault
            when = generator.randrange(100)
            if when == 0:
                raise PutInError("before the pass")
            hidden = run(*parts)
            if when == 1:
                raise PutInError("behind the pass")
            return hidden
        return run(*parts)

    def failing_logits(hidden: torch.Tensor) -> torch.Tensor:
        if threading.current_thread().name == "engine" and generator.randrange(100) == 0:
            raise PutInError("in the head")
        return logits(hidden)

    monkeypatch.setattr(engine_module, "Answer", Failing)
    monkeypatch.setattr(decoder, "run", failing_run)
    monkeypatch.setattr(decoder, "logits", failing_logits)
    soak.run(250, CLIENTS, STALLED)
    tally = soak.mix.tally
    assert tally.n_ended >= 250
    assert tally.faults > 20
    assert tally.ended["known_answer"] > tally.faults // 20, "others come through as if alone"
    nothing_is_left(soak)
    monkeypatch.undo()
    for number in range(250, 300):  # and afterwards everything is as before
        soak.mix.send(number)
    nothing_is_left(soak)


def test_a_bug_in_the_scheduler_ends_all_that_wait_and_what_comes_next_is_served(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = small_engine(tiny_folder)
    params = SamplingParams(max_tokens=200, temperature=1.0, seed=2)
    assert engine._loop is not None
    scheduler = engine._loop.scheduler
    plan, n_passes = scheduler._plan, 0

    def failing_plan() -> Any:
        nonlocal n_passes
        n_passes += 1
        if n_passes == 5:
            raise PutInError("in the scheduler")
        return plan()

    monkeypatch.setattr(scheduler, "_plan", failing_plan)
    streams = [engine.stream(f"{LICENCE[:300]} {n}", params) for n in range(6)]
    for stream in streams:
        with pytest.raises(PutInError):
            list(stream)
    assert engine.generate("Hello", SamplingParams(max_tokens=3)).token_ids
    engine.forget()
    assert [pool.n_used for pool in runner_of(engine).decoder.pools] == [0]
    with pytest.raises(RequestError, match="prompt is empty"):
        engine.generate([])


def test_what_the_soak_must_find_is_found(tiny_folder: Path) -> None:
    """Lost pages, wrong answers and hanging requests do show in the rows."""
    engine = small_engine(tiny_folder)
    mix = Mix(engine, LICENCE)
    prompt, params, token_ids = mix._answers[0]
    mix._answers = [(prompt, params, (*token_ids, 1))]
    soak = Soak(engine, mix)
    soak.run(12, 2, STALLED)
    lost = runner_of(engine).decoder.pool.take()
    by_name = {row.name: row for row in rows_of(soak, n_files_before=0)}
    assert by_name["wrong answers, wrong endings, unwanted errors"].is_met is False
    assert by_name["pages left after forgetting"].value == 1
    assert by_name["pages left after forgetting"].is_met is False
    assert by_name["requests left in the scheduler"].is_met
    runner_of(engine).decoder.pool.give_back(lost)
    assert growth([1, 100, 100, 103]) == pytest.approx(3)
    mix.send = lambda _: threading.Event().wait(3)  # type: ignore[assignment, method-assign]
    with pytest.raises(RuntimeError, match="no request has ended"):
        Soak(engine, mix).run(1, 1, stalled=0.3)
