"""DPO and GRPO against losses written out sequence by sequence, with gradients by autograd."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import VOCABULARY, tiny_plan, tiny_trainer, tiny_transformer
from torch import Tensor

from deepseek.data.packed import Window
from deepseek.data.stream import Piece
from deepseek.data.token_file import IGNORED
from deepseek.model.transformer import Transformer
from deepseek.train.loop import Trainer
from deepseek.train.objective import (
    ClipSettings,
    Objective,
    Pair,
    Policy,
    Preference,
    PreferenceSettings,
    Sample,
)


def some_piece(draw: np.random.Generator, n_prompt: int, n_answer: int) -> Piece:
    ids = draw.integers(1, VOCABULARY, n_prompt + n_answer)
    labels = np.full_like(ids, IGNORED)
    labels[n_prompt - 1 : -1] = ids[n_prompt:]
    return Piece(ids, labels)


def some_pairs(n: int, source: int = 0) -> list[Pair]:
    draw = np.random.Generator(np.random.PCG64(1))
    pairs = []
    for _ in range(n):
        pieces = tuple(some_piece(draw, int(draw.integers(1, 4)), k) for k in (3, 5))
        known = (float(draw.normal(-14, 2)), float(draw.normal(-22, 2)))
        pairs.append(Pair(source, pieces, references=known))
    return pairs


def some_samples(n: int, *, is_old: bool) -> list[Sample]:
    draw = np.random.Generator(np.random.PCG64(2))
    samples = []
    for _ in range(n):
        piece = some_piece(draw, int(draw.integers(1, 4)), int(draw.integers(1, 7)))
        n_answer = int((piece.labels >= 0).sum())
        known = tuple(draw.normal(-math.log(VOCABULARY), 0.4, n_answer).tolist())
        reference = tuple(draw.normal(-math.log(VOCABULARY), 0.4, n_answer).tolist())
        samples.append(
            Sample(
                0,
                (piece,),
                advantage=float(draw.normal()),
                logprobs=known if is_old else (),
                references=reference,
            )
        )
    return samples


def lone_logprobs(model: Transformer, piece: Piece) -> Tensor:
    """Of the answer's tokens, the sequence read alone."""
    logits = model(torch.from_numpy(piece.ids)[None])[0]
    table = logits.log_softmax(-1)
    labels = torch.from_numpy(piece.labels)
    places = (labels >= 0).nonzero()[:, 0]
    return table[places, labels[places]]


def slow_preference(model: Transformer, pairs: Sequence[Pair], beta: float, eps: float) -> Tensor:
    terms = []
    for pair in pairs:
        chosen, rejected = (lone_logprobs(model, piece).sum() for piece in pair.pieces)
        margin = beta * ((chosen - pair.references[0]) - (rejected - pair.references[1]))
        right, wrong = torch.sigmoid(margin), torch.sigmoid(-margin)
        terms.append(-(1 - eps) * right.log() - eps * wrong.log())
    return torch.stack(terms).mean()


def slow_policy(model: Transformer, samples: Sequence[Sample], settings: ClipSettings) -> Tensor:
    answers = []
    for sample in samples:
        now = lone_logprobs(model, sample.pieces[0])
        old = torch.tensor(sample.logprobs).to(now) if sample.logprobs else now.detach()
        reference = torch.tensor(sample.references).to(now)
        terms = []
        for t in range(len(now)):
            ratio = torch.exp(now[t] - old[t])
            low, high = 1 - settings.clip_low, 1 + settings.clip_high
            bounded = min(max(ratio, torch.tensor(low)), torch.tensor(high))
            term = -min(ratio * sample.advantage, bounded * sample.advantage)
            gap = reference[t] - now[t]
            terms.append(term + settings.divergence * (torch.exp(gap) - gap - 1))
        answers.append(torch.stack(terms))
    if settings.level == "answer":
        return torch.stack([terms.mean() for terms in answers]).mean()
    return torch.cat(answers).mean()


def one_step(
    folder: Path, model: Transformer, objective: Objective, windows: Sequence[Window], micro: int
) -> tuple[float, Trainer]:
    trainer = tiny_trainer(
        folder, model=model, objective=objective, micro=micro, plan=tiny_plan(2), z_loss=0.0
    )
    nats, counts, _ = trainer._passes(list(windows))
    return float(nats.sum() / counts.sum()), trainer


def compare(
    folder: Path, make: Callable[[], Objective], windows: Sequence[Window], slow: Any
) -> list[float]:
    """Loss and gradients in double precision, for passes of one, three and all windows."""
    reference = tiny_transformer().double()
    wanted = slow(reference)
    wanted.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    losses = []
    for micro in (1, 3, len(windows)):
        model = tiny_transformer().double()
        loss, _ = one_step(folder, model, make(), windows, micro)
        losses.append(loss)
        for name, p in model.named_parameters():
            assert torch.allclose(p.grad, gradients[name], rtol=1e-5, atol=1e-7), (name, micro)
    assert losses == pytest.approx([float(wanted.detach())] * 3, rel=1e-5, abs=1e-6)
    return losses


@pytest.mark.parametrize(("beta", "smoothing"), [(0.1, 0.0), (0.5, 0.2)])
def test_preference(tmp_path: Path, beta: float, smoothing: float) -> None:
    pairs = some_pairs(7)
    settings = PreferenceSettings(beta=beta, smoothing=smoothing)
    compare(
        tmp_path,
        lambda: Preference(settings),
        pairs,
        lambda model: slow_preference(model, pairs, beta, smoothing),
    )


def test_preference_tells_how_often_it_is_right(tmp_path: Path) -> None:
    pairs, model = some_pairs(7), tiny_transformer().double()
    objective = Preference(PreferenceSettings())
    one_step(tmp_path, model, objective, pairs, 3)
    margins = []
    for pair in pairs:
        chosen, rejected = (float(lone_logprobs(model, p).detach().sum()) for p in pair.pieces)
        margins.append(0.1 * (chosen - pair.references[0] - rejected + pair.references[1]))
    found = objective.measures()
    assert found["accuracy"] == pytest.approx(np.mean([m > 0 for m in margins]))
    assert found["margin"] == pytest.approx(np.mean(margins), abs=1e-5)
    assert objective.measures() == {}


@pytest.mark.parametrize("level", ["token", "answer"])
@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("divergence", [0.0, 0.3])
def test_policy(tmp_path: Path, level: Any, is_old: bool, divergence: float) -> None:
    samples = some_samples(8, is_old=is_old)
    settings = ClipSettings(level=level, divergence=divergence)
    compare(
        tmp_path,
        lambda: Policy(settings),
        samples,
        lambda model: slow_policy(model, samples, settings),
    )


def test_clipping_is_told_and_asymmetric(tmp_path: Path) -> None:
    model, samples = tiny_transformer().double(), some_samples(8, is_old=True)
    settings = ClipSettings(clip_low=0.1, clip_high=0.4)
    objective = Policy(settings)
    one_step(tmp_path, model, objective, samples, 8)
    n_clipped = n_tokens = 0
    for sample in samples:
        now = lone_logprobs(model, sample.pieces[0])
        ratios = (now.detach() - torch.tensor(sample.logprobs).double()).exp().tolist()
        n_tokens += len(ratios)
        for ratio in ratios:
            n_clipped += ratio > 1.4 if sample.advantage > 0 else ratio < 0.9
    assert 0 < n_clipped < n_tokens
    assert objective.measures()["clipped"] == pytest.approx(n_clipped / n_tokens)


def test_equal_advantages_of_zero_teach_nothing(tmp_path: Path) -> None:
    samples = [Sample(0, s.pieces, advantage=0.0) for s in some_samples(4, is_old=False)]
    model = tiny_transformer()
    one_step(tmp_path, model, Policy(ClipSettings()), samples, 4)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
