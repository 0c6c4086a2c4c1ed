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
from deepseek.core.memory import parse_bytes
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.model.budget import Budget, Needs, plan
from deepseek.ops import native
from tiny_checkpoint import tiny_config

MIB = 1 << 20
TOLERANCE = 1.02
"""The process may hold that many times its budget at most."""
NEEDS = Needs(config=tiny_config(), n_bytes=400 * MIB, taken=100 * MIB, weights=20 * MIB)
MEASURED = """
import json, sys
from deepseek import R1Model
from deepseek.core.memory import peak_bytes
model = R1Model(sys.argv[1], memory_budget=sys.argv[2], context_window=int(sys.argv[3]) or None)
ids = model.encode("The grass is green and the sky is blue. " * model.context_window)
prompt = model.decode(ids[: model.context_window - 40])
answer = model.generate(prompt, max_tokens=16)
print(json.dumps([model.context_window, answer.n_prompt_tokens, peak_bytes()]))
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
    longest = plan(NEEDS, None).n_pages * 64
    assert longest > 2_048
    assert plan(NEEDS, None).context_window == tiny_config().context_window
    assert plan(NEEDS, longest).context_window == longest
    taken = NEEDS.taken + NEEDS.weights
    assert taken + NEEDS.tokens(longest, 2.0) <= NEEDS.n_bytes
    assert taken + NEEDS.tokens(longest + 64, 2.0) > NEEDS.n_bytes
    with pytest.raises(ConfigError, match="the memory budget is 400 MiB") as caught:
        plan(NEEDS, longest + 64)
    assert f"up to {longest:,} tokens fit" in caught.value.hint


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
@pytest.mark.parametrize(("budget", "window"), [("560MiB", 0), ("760MiB", 9_000)])
def test_the_process_stays_below_it(smollm2_path: Path, budget: str, window: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, str(smollm2_path), budget, str(window)],
        capture_output=True,
        text=True,
        check=True,
        timeout=500,
    )
    context_window, n_prompt, peak = json.loads(run.stdout)
    assert context_window == window or (not window and 500 < context_window < 8_192)
    assert n_prompt > context_window - 60
    assert peak <= parse_bytes(budget) * TOLERANCE


@is_native
@pytest.mark.weights
def test_more_than_fits_at_once_waits_its_turn(smollm2_path: Path) -> None:
    loaded = load_engine(str(smollm2_path), dtype="int8", threads=1)[0]
    budget = Budget(kv_format="bfloat16", context_window=1_000, n_pages=18, n_node_pages=40)
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
    narrow = replace(budget, n_pages=10)
    small = engine_like(loaded, None, budget=narrow, context_window=1_000)
    with pytest.raises(RequestError, match="there are 10") as caught:
        small.generate(kept * 2, params)
    assert "larger memory budget" in caught.value.hint


def needed_page(engine: Engine) -> int:
    assert isinstance(engine.runner, NativeRunner)
    return engine.runner.decoder.pool.page_bytes
