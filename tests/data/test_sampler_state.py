"""Windows lose no token, mix as asked, and go on from a state as if nothing had happened."""

import json
from pathlib import Path

import numpy as np
import pytest
from token_sources import END, write_source

from deepseek.core.errors import ConfigError
from deepseek.data.mixture import DynamicSettings, Mixture, ProgressWeights, weight_at
from deepseek.data.packed import Window, pack
from deepseek.data.sampler import Sampler, StageMix
from deepseek.data.stream import DocumentStream
from deepseek.data.token_file import IGNORED

LENGTHS = [5, 30, 2, 17, 1, 9, 64, 3]


def ids_of(window: Window) -> list[int]:
    return [int(i) for piece in window.pieces for i in piece.ids]


def sampler_of(folder: Path, dynamic: DynamicSettings | None = None) -> Sampler:
    sources = {
        "text": write_source(folder, "text", LENGTHS),
        "code": write_source(folder, "code", LENGTHS[::-1], base=100_000),
    }
    return Sampler(sources, window=16, seed=3, dynamic=dynamic)


def test_an_epoch_reads_every_token_once_and_the_next_in_another_order(tmp_path: Path) -> None:
    tokens = write_source(tmp_path, "a", LENGTHS)
    stream = DocumentStream(tokens, "a", seed=1)
    epochs = []
    for _ in range(2):
        taken: list[int] = []
        while len(taken) < tokens.n_tokens:
            taken += stream.take(min(7, tokens.n_tokens - len(taken))).ids.tolist()
        epochs.append(taken)
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(tokens.tokens.tolist())
    assert epochs[0] != epochs[1]
    assert stream.position.epoch == 2


def test_labels_are_the_next_tokens_of_the_same_document(tmp_path: Path) -> None:
    sampler = sampler_of(tmp_path)
    sampler.begin(StageMix(weights={"text": 1.0}, n_windows=40))
    for _ in range(40):
        window = sampler.draw()
        assert len(ids_of(window)) == 16
        for piece in window.pieces:
            for token, label in zip(piece.ids, piece.labels, strict=True):
                assert label == IGNORED if token == END else label in (token + 1, END)
        row = pack([window])
        assert sum(row.lengths) == 16
        assert int((row.labels >= 0).sum()) == window.n_labels


def test_the_mix_is_what_was_asked_for(tmp_path: Path) -> None:
    sampler = sampler_of(tmp_path)
    sampler.begin(StageMix(weights={"text": 1.0, "code": 3.0}, n_windows=200))
    names = [sampler.names[sampler.draw().source] for _ in range(200)]
    for end in range(4, 200):
        assert abs(names[:end].count("code") / end - 0.75) <= 1 / end
    assert sampler.realised() == {"text": 0.25, "code": 0.75}


def test_weights_move_along_a_stage(tmp_path: Path) -> None:
    assert [weight_at([[0, 1.0], [0.5, 3.0]], p) for p in (0.0, 0.25, 0.5, 1.0)] == [1, 2, 3, 3]
    sampler = sampler_of(tmp_path)
    moving = {"text": 1.0, "code": [[0.0, 0.0], [1.0, 1.0]]}
    sampler.begin(StageMix(weights=moving, n_windows=100))
    names = [sampler.names[sampler.draw().source] for _ in range(100)]
    assert names[:50].count("code") < 15 < 18 < names[50:].count("code") <= 25


@pytest.mark.parametrize("pacing", [0.0, 0.7])
def test_a_saved_state_goes_on_with_the_same_windows(tmp_path: Path, pacing: float) -> None:
    stages = [
        StageMix(weights={"text": 1.0, "code": [[0, 1.0], [1, 3.0]]}, n_windows=23, pacing=pacing),
        StageMix(weights={"code": 1.0}, n_windows=9),
    ]

    def losses(window: Window) -> dict[str, float]:
        return {("text", "code")[window.source]: 1 + sum(ids_of(window)) % 97 / 50}

    def run(stop: tuple[int, int] | None) -> list[list[int]]:
        sampler = sampler_of(tmp_path, DynamicSettings())
        drawn = []
        for number, stage in enumerate(stages):
            sampler.begin(stage)
            for step in range(stage.n_windows):
                if stop == (number, step):
                    state = json.loads(json.dumps(sampler.state()))
                    sampler = sampler_of(tmp_path, DynamicSettings())
                    sampler.begin(stage)
                    sampler.resume(state)
                window = sampler.draw()
                sampler.observe(losses(window))
                drawn.append(ids_of(window))
        return drawn

    unbroken = run(None)
    for stop in [(0, 1), (0, 11), (0, 22), (1, 0), (1, 5)]:
        assert run(stop) == unbroken, stop


def test_pacing_brings_easy_documents_first_and_reads_the_same_ones(tmp_path: Path) -> None:
    tokens = write_source(tmp_path, "a", [8] * 64)
    orders = {}
    for pacing in (0.0, 1.0, -1.0):
        stream = DocumentStream(tokens, "a", seed=1)
        stream.pace(pacing, 8 * 32)
        orders[pacing] = [int(stream.take(8).ids[0]) // 1000 for _ in range(32)]
    assert orders[1.0] == sorted(orders[0.0])
    assert orders[-1.0] == orders[1.0][::-1]
    assert orders[0.0] not in (orders[1.0], orders[-1.0])


def test_a_stage_goes_on_behind_the_last_one_and_never_repeats_in_an_epoch(tmp_path: Path) -> None:
    tokens = write_source(tmp_path, "a", [8] * 64)
    stream = DocumentStream(tokens, "a", seed=1)
    seen = []
    for pacing in (1.0, 0.0, 0.5):
        stream.pace(pacing, 8 * 20 if pacing else 0)
        seen += [int(stream.take(8).ids[0]) for _ in range(20)]
    assert len(set(seen)) == 60


def test_what_is_learned_faster_gains_weight_within_bounds() -> None:
    settings = DynamicSettings(bound=2.0)
    weights = ProgressWeights(["slow", "quick"], settings)
    for step in range(60):
        weights.observe({"slow": 3.0, "quick": 3.0 * 0.97**step})
    assert weights.factors["quick"] > 1.1 > 0.9 > weights.factors["slow"]
    assert 0.5 <= min(weights.factors.values()) <= max(weights.factors.values()) <= 2.0
    moved = dict(weights.factors)
    for _ in range(600):  # nothing is learned any more: back to the weights that were asked for
        weights.observe({"slow": 3.0, "quick": 1.0})
    assert weights.factors["quick"] < moved["quick"]
    assert weights.factors == pytest.approx({"slow": 1.0, "quick": 1.0}, abs=0.05)
    assert np.isfinite(list(weights.factors.values())).all()


def test_a_source_that_is_read_again_gains_nothing(tmp_path: Path) -> None:
    sources = {
        "small": write_source(tmp_path, "small", [16] * 4),
        "large": write_source(tmp_path, "large", [16] * 400),
    }
    sampler = Sampler(sources, window=16, dynamic=DynamicSettings())
    sampler.begin(StageMix(weights={"small": 1.0, "large": 1.0}, n_windows=300))
    shares = []
    for step in range(300):  # the small one is learned by heart
        sampler.draw()
        sampler.observe({"small": 3.0 * 0.97**step, "large": 3.0})
        shares.append(sampler.shares()["small"])
    assert max(shares[:8]) > 0.5
    assert shares[-1] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "weights",
    [{}, {"a": 0.0}, {"a": -1.0}, {"b": 1.0}, {"a": [[0.5, 1.0], [0.2, 1.0]]}, {"a": [[0, "x"]]}],
)
def test_weights_that_make_no_mix_are_refused(weights: dict) -> None:
    with pytest.raises(ConfigError):
        Mixture(["a"], weights, None)


def test_what_is_not_to_be_broken_is_read_in_one_window(tmp_path: Path) -> None:
    lengths = [5, 3, 7, 2, 6, 10, 4, 25]
    tokens = {"a": write_source(tmp_path, "a", lengths)}
    sampler = Sampler(tokens, 10, 0, unbroken=["a"])
    sampler.begin(StageMix(weights={"a": 1.0}, n_windows=30))
    windows = [sampler.draw() for _ in range(30)]
    assert all(0 < window.n_tokens <= 10 for window in windows)
    assert any(window.n_tokens < 10 for window in windows)
    sizes = [len(piece.ids) for window in windows for piece in window.pieces]
    assert set(sizes) <= {*lengths[:-1], 10, 5}  # the long one alone is cut: 10, 10, 5
    plain = Sampler(tokens, 10, 0)
    plain.begin(StageMix(weights={"a": 1.0}, n_windows=30))
    assert all(plain.draw().n_tokens == 10 for _ in range(30))
