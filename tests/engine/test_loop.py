"""The engine with a scheduler: threads, cancelling, turns, memory budgets, and real weights."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from test_engine import what
from test_saved_context import SMALL, TEXT, engine_like
from test_scheduler import alone, runner_of
from tiny_native import native_engine

from deepseek.core.errors import RequestError
from deepseek.core.llm import Completion, SamplingParams
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.loop import FairLock
from deepseek.engine.request import AnswerStream
from deepseek.model.budget import Budget, PageCounts
from deepseek.ops import native
from deepseek.ops.hierarchical import PAGE

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")

PROMPT = "You may reproduce and distribute copies of the Work"
LONG = SamplingParams(max_tokens=1_500, temperature=1.0, seed=2)
PARAMS = SamplingParams(max_tokens=20, temperature=1.0, seed=11)
LEAVING = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from tiny_native import native_engine
from deepseek.core.llm import SamplingParams
stream = native_engine(Path(sys.argv[1])).stream("Hello", SamplingParams(max_tokens=1_900))
next(stream)
print("left", flush=True)
"""


@pytest.fixture(scope="module")
def engine(tiny_folder: Path) -> Engine:
    return native_engine(tiny_folder)


def n_used(engine: Engine) -> int:
    return runner_of(engine).decoder.pool.n_used


def test_many_threads_at_once_get_what_each_gets_alone(engine: Engine) -> None:
    prompts = [f"{PROMPT * (1 + n % 4)} {n}" for n in range(12)]
    wanted = [alone(engine, engine.tokenizer.encode(p, add_bos=True), PARAMS) for p in prompts]
    scores = engine.score(PROMPT, [" of", " it"])
    got: dict[int, Any] = {}
    together: list[int] = []

    def ask(n: int) -> None:
        match n % 3:
            case 0:
                got[n] = engine.generate(prompts[n], PARAMS)
            case 1:
                *_, last = engine.stream(prompts[n], PARAMS)
                got[n] = last.completion
            case _:
                assert engine.score(PROMPT, [" of", " it"]) == scores
                got[n] = engine.generate(prompts[n], PARAMS)
        assert engine._loop is not None
        together.append(len(engine._loop.scheduler.running))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[n].token_ids for n in range(12)] == wanted
    assert max(together) > 0, "they ran side by side"
    engine.forget()
    assert n_used(engine) == 0


def test_a_stream_runs_beside_other_requests_of_its_thread(engine: Engine) -> None:
    stream = engine.stream(PROMPT, LONG)
    pieces = [next(stream).text]
    assert engine.generate("Hello", PARAMS).token_ids
    assert engine.score(PROMPT, [" a"])
    assert len(engine.logits([5, 6, 7])) == 3
    pieces += [delta.text for delta in stream]
    assert "".join(pieces) == engine.generate(PROMPT, LONG).text


def test_streams_are_cancelled_closed_or_lost(engine: Engine) -> None:
    stream = engine.stream(PROMPT, LONG)
    assert isinstance(stream, AnswerStream)
    first = next(stream)
    stream.cancel()
    *_, last = stream
    assert last.completion is not None
    assert last.completion.finish_reason == "cancelled"
    assert last.completion.text.startswith(first.text)
    for lose in (AnswerStream.close, AnswerStream.__del__):
        stream = engine.stream(PROMPT, LONG)
        assert isinstance(stream, AnswerStream)
        next(stream)
        lose(stream)
        assert list(stream) == []
        with pytest.raises(RequestError, match="read or closed already"):
            stream.result()
        engine.forget()
        assert n_used(engine) == 0


def test_an_error_while_a_prompt_is_read_comes_from_the_stream(tiny_folder: Path) -> None:
    told: list[tuple[int, int]] = []

    def on_prefill(done: int, total: int) -> None:
        told.append((done, total))
        if done:
            raise InterruptedError

    engine = native_engine(tiny_folder, on_prefill=on_prefill)
    long = (PROMPT * 200)[:4_500]
    n_prompt = engine.count_tokens(long)
    assert 1_024 < n_prompt < 2_000
    with pytest.raises(InterruptedError):
        engine.generate(long, PARAMS)
    assert told == [(0, n_prompt), (1_024, n_prompt)]
    assert engine.generate(PROMPT, PARAMS).token_ids
    engine.forget()
    assert n_used(engine) == 0


def test_the_lock_is_had_in_the_order_of_asking() -> None:
    lock, had, threads = FairLock(), list[int](), []
    inside = threading.Event()

    def take(n: int) -> None:
        with lock:
            had.append(n)

    with lock:
        for n in range(5):
            threads.append(threading.Thread(target=take, args=(n,)))
            threads[-1].start()
            while len(lock._queue) <= n:
                inside.wait(0.001)
    with lock:  # it asks after all others
        assert had == list(range(5))
    for thread in threads:
        thread.join()


def test_a_program_may_end_in_the_middle_of_an_answer(tiny_folder: Path) -> None:
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", LEAVING, str(tiny_folder), str(here), str(here.parent)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "left\n", "")


def test_turns_take_pages_from_those_that_run(tiny_folder: Path) -> None:
    """A budget of pages holds for everything together, and everything gets done."""
    pages = PageCounts(hot=16, nodes=6)
    budget = Budget(kv_format="bfloat16", context_window=1_000, pages=pages, peak_bytes=0)
    for hierarchy in (None, SMALL):
        engine = native_engine(
            tiny_folder, budget=budget, context_window=1_000, hierarchy=hierarchy
        )
        free = native_engine(tiny_folder, context_window=1_000, hierarchy=hierarchy)
        prompts = [(f"{n} " + PROMPT * 20)[: 1_500 - 100 * n] for n in range(4)]
        params = SamplingParams(max_tokens=100, temperature=1.0, seed=3)
        wanted = [what(free.generate(prompt, params)) for prompt in prompts]
        streams = [engine.stream(prompt, params) for prompt in prompts]
        for n in range(3):
            choices = (" a", " b c")
            assert engine.score(prompts[n], choices) == free.score(prompts[n], choices)
            assert n_used(engine) <= 16
        got = []
        for stream in streams:
            *_, last = stream
            assert last.completion is not None
            got.append(what(last.completion))
        assert got == wanted
        engine.forget()
        assert [pool.n_used for pool in runner_of(engine).decoder.pools] == [0, 0][
            : len(runner_of(engine).decoder.pools)
        ]
        with pytest.raises(RequestError, match="context window"):
            engine.generate("x" * 5_000, params)


@pytest.mark.weights
@pytest.mark.parametrize("mode", ["dense", "hierarchical"])
def test_real_weights_side_by_side_equal_one_by_one(smollm2_path: Path, mode: str) -> None:
    loaded = load_engine(str(smollm2_path), dtype="int8", threads=1)[0]
    engine = engine_like(loaded, SMALL if mode == "hierarchical" else None)
    prompts = [TEXT[: 300 * n] + f"\n\nQuestion {n}: what may I do?" for n in (0, 1, 1, 4, 9, 9)]
    params = SamplingParams(max_tokens=10)
    wanted = [alone(engine, engine.tokenizer.encode(p, add_bos=True), params) for p in prompts]
    got: dict[int, Completion] = {}

    def ask(n: int) -> None:
        got[n] = engine.generate(prompts[n], params)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[n].token_ids for n in range(len(prompts))] == wanted
    again = dict(engine.generate_many(prompts, params))
    assert [again[n].token_ids for n in range(len(prompts))] == wanted
    assert min(again[n].n_reused_tokens for n in (3, 4, 5)) >= 2 * PAGE
    engine.forget()
    assert n_used(engine) == 0
