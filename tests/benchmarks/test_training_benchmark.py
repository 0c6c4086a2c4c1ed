"""The benchmark of training compares what it says: same windows, paired documents, known junk."""

import math
import random
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from chart import draw_curves
from curriculum import Replay, digest, drawn, mixed, text_of
from deepseek.data.packed import Window
from deepseek.data.sampler import Sampler, StageMix
from deepseek.data.synthesis.families import make_problem
from deepseek.data.token_file import EncodedDocument, TokenFile, write_token_file
from deepseek.model.config import load_preset
from deepseek.model.transformer import Transformer
from deepseek.train.evaluation import HeldOut
from deepseek.train.plan import Plan, PlannedStage
from deepseek.train.schedule import Schedule
from filtering import scores
from followed import mean_curve, share_needed
from paired import bits_per_byte, compare, document_nats

PRESET = Path(__file__).parents[2] / "configs" / "r1-tiny.toml"
WINDOW = 16


def token_file(path: Path, n: int, seed: int) -> TokenFile:
    rng = random.Random(seed)
    sizes = [rng.randrange(5, 40) for _ in range(n)]
    made = [[rng.randrange(500) for _ in range(size)] for size in sizes]
    return write_token_file(
        path, (EncodedDocument(ids, 3 * len(ids), rng.random()) for ids in made)
    )


def each(windows: list[Window]) -> list[str]:
    return [digest([window]) for window in windows]


def test_both_orders_have_the_same_windows(tmp_path: Path) -> None:
    files = {name: token_file(tmp_path / name, 60, i) for i, name in enumerate("ab")}
    stages = [
        PlannedStage("first", 0, 4, StageMix(weights={"a": 1}, n_windows=8, pacing=1.0), 1.0, None),
        PlannedStage("then", 4, 8, StageMix(weights={"a": 1, "b": 3}, n_windows=8), 1.0, None),
    ]
    plan = Plan(stages, 2, WINDOW, 1e-3, Schedule())
    sampler = Sampler(files, WINDOW)
    windows = drawn(sampler, plan)
    assert [window.source for window in windows[:8]] == [0] * 8
    assert sum(window.source for window in windows[8:]) == 6
    near = mixed(windows, "seed", 4)
    assert each(near) != each(windows)
    assert all(digest(near[i : i + 4]) == digest(windows[i : i + 4]) for i in range(0, 16, 4))
    other = mixed(windows, "seed", len(windows))
    assert each(other) != each(windows)
    assert digest(other) == digest(windows) != digest(windows[1:] + windows[:1] * 2)
    replay = Replay(sampler, other)
    replay.begin(stages[0].mix)
    assert each([replay.draw() for _ in other]) == each(other)
    with pytest.raises(AssertionError, match="too short"):
        drawn(Sampler({"a": token_file(tmp_path / "c", 3, 0), "b": files["b"]}, WINDOW), plan)


def test_nats_of_documents_are_those_of_the_evaluation(tmp_path: Path) -> None:
    model = Transformer(load_preset(PRESET, ()))
    model.initialise(0)
    tokens = token_file(tmp_path / "held-out", 30, 0)
    nats = document_nats(model, tokens, WINDOW, 400)
    wanted = HeldOut({"a": tokens}, WINDOW, 400).bits_per_byte(model, torch.float32)
    assert bits_per_byte({"a": nats}, {"a": tokens}) == pytest.approx(wanted, rel=1e-5)
    assert 10 < len(nats) < 30
    alone = document_nats(model, tokens, WINDOW, 1)
    assert alone == pytest.approx(nats[:1], rel=1e-5)


def test_interval_counts_seeds_as_well_as_documents() -> None:
    rng = random.Random(0)
    sizes = {"a": [rng.randrange(50, 500) for _ in range(40)]}
    base = [[math.log(2) * size * rng.uniform(1, 3) for size in sizes["a"]] for _ in range(3)]

    def shifted(by: tuple[float, float, float]) -> list[dict[str, list[float]]]:
        return [
            {"a": [x - math.log(2) * size * gain * rng.uniform(0.9, 1.1)
                   for x, size in zip(nats, sizes["a"], strict=True)]}
            for nats, gain in zip(base, by, strict=True)
        ]  # fmt: skip

    theirs = [{"a": nats} for nats in base]
    same = compare(theirs, theirs, sizes, ["a"])
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    steady = compare(shifted((0.1, 0.1, 0.1)), theirs, sizes, ["a"])
    assert steady.value == pytest.approx(-0.1, abs=0.005)
    assert -0.105 < steady.low <= steady.value <= steady.high < -0.095
    shaky = compare(shifted((0.3, -0.2, 0.2)), theirs, sizes, ["a"])
    assert shaky.value == pytest.approx(-0.1, abs=0.01)
    assert shaky.low < -0.2
    assert shaky.high > 0.05


def test_junk_is_scored_by_hand() -> None:
    planted = [("", "a"), ("", "b"), ("copy", "a"), ("leak", "c"), ("words", "d")]
    found = scores(planted, {"0 ", "4 words"})
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["F1"] == pytest.approx(2 / 3)
    assert found["good dropped"] == 0.5
    assert (found["copy dropped"], found["words dropped"]) == (1.0, 0.0)


def test_tokens_to_a_loss_lie_between_points() -> None:
    theirs = {"curve": [(50, {"a": 4.0, "b": 4.0}), (100, {"a": 3.0, "b": 2.0})]}
    ours = {"curve": [(50, {"a": 3.0, "b": 3.0}), (100, {"a": 2.0, "b": 2.0})]}
    assert share_needed(ours, theirs) == pytest.approx(0.75)
    assert share_needed(theirs, ours) == math.inf
    assert mean_curve([ours, theirs]) == [(50, 3.5), (100, 2.25)]
    assert mean_curve([ours, theirs], "b") == [(50, 3.5), (100, 2.0)]


def test_problem_as_text_ends_with_its_answer() -> None:
    problem = make_problem("words/story", 0, 1, 0)
    given, answer = text_of(problem)
    assert problem.question in given
    assert answer == f"{problem.solution}\n{problem.answer}"


def test_chart_has_a_line_for_each_curve(tmp_path: Path) -> None:
    panels = {"loss & more": {"raw": [(0, 3.0), (10, 2.0)], "clean": [(0, 3.0), (10, 1.0)]}}
    draw_curves(panels, tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    assert text.count("<polyline") == 2
    assert "loss &amp; more" in text
