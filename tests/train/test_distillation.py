"""What a router is taught, and that it learns."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.model.hierarchical import HierarchicalCache
from deepseek.model.router import LearnedRouter, load_router
from deepseek.model.transformer import Transformer
from deepseek.ops.hierarchical import PAGE, TOGETHER, UNTRAINED, Hierarchy, Turns
from deepseek.train.distillation import Lesson, ask, coverage, divergence
from deepseek.train.router import RouterTrainer, RouterTraining, compare, hierarchies, listen
from tiny_checkpoint import tiny_config, tiny_model

SMALL = Hierarchy(sinks=64, window=64, recall=128)
QUICK = RouterTraining(windows=3, size=12 * PAGE, steps=2, pages=2)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(tiny_config()).requires_grad_(False)


def some_windows(count: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    shape = count, QUICK.size
    ids: list[list[int]] = torch.randint(512, shape, generator=generator).tolist()
    return ids


def test_true_shares_are_those_of_dense_attention(model: Transformer) -> None:
    lesson = listen(model, some_windows(1)[0], [9])[2]
    config, near = model.config, hierarchies(SMALL)[0]
    true = ask(lesson, 0, near, Turns(theta=config.rope_theta)).true()
    q = lesson.queries[0].double() / math.sqrt(config.d_head)
    repeats = config.n_heads // config.n_kv_heads
    scores = q @ lesson.keys[:, : 10 * PAGE].double().repeat_interleave(repeats, 0).mT
    later = torch.arange(10 * PAGE) > torch.arange(9 * PAGE, 10 * PAGE)[:, None]
    weights = scores.masked_fill(later, -math.inf).softmax(-1)
    pages = weights.unflatten(-1, (-1, PAGE)).sum(-1)
    blocks = pages.unflatten(0, (-1, repeats)).unflatten(2, (-1, TOGETHER)).mean((1, 3))
    assert torch.allclose(true[..., :-1].double(), blocks[..., 1:8], atol=1e-6)
    assert torch.allclose(true.sum(-1), torch.ones(()))


def test_expected_shares_are_the_votes_of_the_cache(model: Transformer) -> None:
    """What is taught is what attention asks for later, near and beyond the reach."""
    ids = some_windows(1)[0]
    turns = Turns(theta=model.config.rope_theta)
    router = LearnedRouter(model.config)
    with torch.no_grad():
        for p in router.parameters():
            p.add_(0.3)
    for hierarchy in hierarchies(replace(SMALL, fusion=0.0)):
        cache = HierarchicalCache(
            model.config,
            hierarchy,
            dtype=torch.float32,
            device=torch.device("cpu"),
            router=router,
        )
        with torch.no_grad():
            model(torch.tensor([ids]), cache)
        recalled = cache.recalled[0]
        assert recalled is not None
        lesson = listen(model, ids, [QUICK.size // PAGE - 1])[0]
        nodes = router.remember(0, lesson.keys, 0)
        votes = ask(lesson, 0, hierarchy, turns).expected(router, 0, nodes)[..., :-1]
        assert torch.allclose(votes, recalled.votes, atol=1e-5)


def test_divergence_is_zero_for_the_truth_and_positive_otherwise() -> None:
    true = torch.rand(2, 3, 5).softmax(-1)
    other = torch.rand(2, 3, 5).softmax(-1)
    assert float(divergence(true, true)) == pytest.approx(0, abs=1e-6)
    wanted = (true * (true / other).log()).sum(-1).mean()
    assert float(divergence(other, true)) == pytest.approx(float(wanted), abs=1e-6)


def test_nothing_covers_more_than_the_best_choice(model: Transformer) -> None:
    lessons = listen(model, some_windows(1)[0], [8, 11])
    turns = Turns(theta=model.config.rope_theta)
    for hierarchy in hierarchies(SMALL):
        found = coverage({"plain": UNTRAINED}, lessons, hierarchy, turns)
        assert 0 < found["plain"] <= found["best"] < 1
        everything = coverage(
            {"plain": UNTRAINED}, lessons, replace(hierarchy, recall=16 * PAGE), turns
        )
        assert everything["plain"] == pytest.approx(1, abs=1e-5)


def mean_divergence(model: Transformer, router: LearnedRouter, ids: list[int]) -> float:
    near, turns = hierarchies(SMALL)[0], Turns(theta=model.config.rope_theta)
    found = []
    with torch.no_grad():
        for layer, lesson in enumerate(listen(model, ids, [7, 9, 11])):
            nodes = router.remember(layer, lesson.keys, 0)
            for number in range(3):
                asked = ask(lesson, number, near, turns)
                found.append(divergence(asked.expected(router, layer, nodes), asked.true()))
    return float(torch.stack(found).mean())


def test_it_learns_what_holds_for_other_texts(model: Transformer, tmp_path: Path) -> None:
    settings = replace(QUICK, windows=10, steps=8, beyond=0.0)
    trainer = RouterTrainer(model, some_windows(10), settings, tmp_path / "router", SMALL)
    held_out = some_windows(2, seed=9)
    near = hierarchies(SMALL)[0]
    (before,) = compare(model, trainer.router, held_out, near)
    assert before.learned == before.plain < before.best
    untaught = mean_divergence(model, trainer.router, held_out[0])
    seen: list[int] = []
    router = trainer.run(lambda done, total: seen.append(done))
    assert seen == list(range(1, 11))
    assert mean_divergence(model, router, held_out[0]) < untaught / 2
    (after,) = compare(model, router, held_out, near)
    assert (after.plain, after.best) == (before.plain, before.best)


def test_a_killed_run_goes_on_as_if_nothing_had_been(model: Transformer, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 2:
            raise Killed

    ids = some_windows(3)
    whole = RouterTrainer(model, ids, QUICK, tmp_path / "whole", SMALL).run()
    with pytest.raises(Killed):
        RouterTrainer(model, ids, QUICK, tmp_path / "cut", SMALL).run(kill)
    again = RouterTrainer(model, ids, QUICK, tmp_path / "cut", SMALL)
    assert again.n_read == 2
    again.run()
    kept = load_router(tmp_path / "cut", model.config)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(kept.state_dict()[name], tensor), name


def test_a_state_of_another_run_is_refused(model: Transformer, tmp_path: Path) -> None:
    RouterTrainer(model, some_windows(3), QUICK, tmp_path / "router", SMALL).run()
    with pytest.raises(CheckpointError, match="other weights"):
        RouterTrainer(model, some_windows(3, 1), QUICK, tmp_path / "router", SMALL)
    state = tmp_path / "router.state"
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        RouterTrainer(model, some_windows(3), QUICK, tmp_path / "router", SMALL)


def test_gradients_reach_every_part(model: Transformer) -> None:
    lesson: Lesson = listen(model, some_windows(1)[0], [11])[1]
    router = LearnedRouter(model.config)
    with torch.no_grad():
        router.gate.fill_(0.5)
    asked = ask(lesson, 0, hierarchies(SMALL)[1], Turns(theta=model.config.rope_theta), 500)
    nodes = router.remember(1, lesson.keys, 0)
    loss: Tensor = divergence(asked.expected(router, 1, nodes), asked.true())
    loss.backward()
    for name, p in router.named_parameters():
        assert p.grad is not None
        assert p.grad[1].abs().sum() > 0, name
        assert p.grad[0].abs().sum() == 0, name


@pytest.mark.parametrize("wrong", [{"windows": 0}, {"size": 100}, {"beyond": 2.0}, {"rate": 1.0}])
def test_wrong_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        RouterTraining(**wrong)  # type: ignore[arg-type]
