"""Keys and values behind the window in fewer bits, from the loader to the answer."""

from pathlib import Path

import pytest
import torch

from deepseek.core.errors import ConfigError
from deepseek.core.llm import SamplingParams, ScoreRequest
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.engine.runner import first_asking
from deepseek.model.pages import PagedSequence
from deepseek.ops import native
from deepseek.ops.cold import ColdTier
from deepseek.ops.hierarchical import PAGE, Hierarchy

has_kernels = pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
TIER = ColdTier(bits=4, sinks=64, window=128, slack=256)
HIERARCHIES = {
    "dense": None,
    "hierarchical": Hierarchy(sinks=64, window=128, recall=192, dense=320, reach=1_024),
}
N_TOKENS = 1_500


@pytest.fixture(scope="module")
def small(smollm2_path: Path) -> Engine:
    return load_engine(str(smollm2_path), dtype="int8", threads=1, kv_dtype="int4")[0]


@pytest.fixture(params=HIERARCHIES)
def runner(request: pytest.FixtureRequest, small: Engine) -> NativeRunner:
    """A small window, so that short texts have a long way back."""
    hierarchy, model = HIERARCHIES[request.param], small.runner.model
    return NativeRunner(
        model, dtype=torch.float32, device=torch.device("cpu"), hierarchy=hierarchy, tier=TIER
    )


def tokens(n: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, 40_000, (n,), generator=generator).tolist()


def hidden(runner: NativeRunner, sequence: PagedSequence, ids: list[int]) -> torch.Tensor:
    return runner.decoder.run([ids], [sequence])


@pytest.mark.weights
@has_kernels
def test_within_the_slack_nothing_is_lost(runner: NativeRunner) -> None:
    """A question, and another after the same text: as if the first had not been asked."""
    text, first, second = tokens(N_TOKENS), tokens(TIER.slack, 1), tokens(40, 2)
    runner.fill(text)
    runner.extend(first)
    n_given_back = N_TOKENS - runner.decoder.pool.n_used * PAGE
    assert n_given_back > 0
    runner.rewind(N_TOKENS // PAGE * PAGE)
    again = runner.extend(text[N_TOKENS // PAGE * PAGE :] + second)
    fresh = NativeRunner(
        runner.model,
        dtype=runner.dtype,
        device=runner.device,
        hierarchy=runner.hierarchy,
        tier=TIER,
    )
    fresh.fill(text[: N_TOKENS // PAGE * PAGE])
    assert torch.equal(fresh.extend(text[N_TOKENS // PAGE * PAGE :] + second), again)


@pytest.mark.weights
@has_kernels
def test_beyond_the_slack_the_window_is_seen_in_its_cold_form(runner: NativeRunner) -> None:
    """Where a sequence is cut, and where one is forked: alike, and near what was there."""
    text, tail, place = tokens(N_TOKENS), tokens(8, 1), 9 * PAGE + 20
    decoder = runner.decoder
    whole, short = decoder.sequence(), decoder.sequence()
    hidden(runner, whole, text)
    hidden(runner, short, text[:place])
    wanted = hidden(runner, short, tail)
    fork = whole.fork(place)
    forked = hidden(runner, fork, tail)
    whole.truncate(place)
    assert torch.equal(hidden(runner, whole, tail), forked)
    assert not torch.equal(forked, wanted)
    apart = torch.nn.functional.cosine_similarity(forked, wanted)
    assert float(apart.min()) > 0.7
    for sequence in (whole, short, fork):
        sequence.release()
    assert decoder.pool.n_used == 0
    assert decoder.cold is not None
    assert decoder.cold.n_used == 0


@pytest.mark.weights
@has_kernels
def test_branches_share_what_is_cold(runner: NativeRunner) -> None:
    """Several at once give what each gives alone; all pages come back."""
    text, contexts = tokens(N_TOKENS), [tokens(n, n) for n in (5, 12, 9)]
    runner.fill(text)
    used = runner.decoder.pool.n_used
    ends, _ = runner.read_branches(text, contexts, [[]] * 3)
    assert runner.decoder.pool.n_used <= used, "only what they share is kept"
    for end, context in zip(ends, contexts, strict=True):
        alone = runner.decoder.sequence()
        alone.asks_from = first_asking(len(text) + len(context))
        assert torch.equal(hidden(runner, alone, [*text, *context])[-1], end)
        alone.release()
    runner.rewind(0)
    assert runner.decoder.pool.n_used == 0


@pytest.mark.weights
@has_kernels
def test_from_the_loader_to_the_answer(small: Engine) -> None:
    assert isinstance(small.runner, NativeRunner)
    assert small.runner.tier == ColdTier(bits=4)
    small.runner.fill(tokens(8_000))
    decoder, sizes = small.runner.decoder, small.runner.tier_bytes
    assert decoder.cold is not None
    assert decoder.cold.n_used == 8_000 // PAGE
    assert decoder.pool.n_used <= (128 + 512 + 2_048) // PAGE + 1
    config = small.runner.model.config
    a_page = config.n_layers * config.n_kv_heads * PAGE * 2 * config.d_head * 2
    assert sizes["hot"] >= decoder.pool.n_used * a_page
    # What is kept in four bits takes 72 instead of 256 bytes, where heads are 64 wide.
    assert sizes["cold"] / len(decoder.cold.pages.keys) == 16 * a_page * 72 / 256
    assert small.runner.cache_bytes == sum(sizes.values())
    prompts = [f"{'One two three. ' * 300}{n}" for n in range(3)]
    list(small.score_many([ScoreRequest(prompt, (" a", " b c")) for prompt in prompts]))
    running = small.generate_many(prompts, SamplingParams(max_tokens=9))
    next(running)
    running.close()
    small.forget()
    assert decoder.pool.n_used == 0
    assert decoder.cold.n_used == 0


def test_other_weights_are_told_so(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="computed in float32"):
        load_engine(str(tiny_folder), dtype="float32", kv_dtype="int8")
    with pytest.raises(ConfigError, match="native library only"):
        load_engine(str(tiny_folder), kv_dtype="int8")
