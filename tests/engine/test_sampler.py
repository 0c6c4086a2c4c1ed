"""Drawn tokens follow the exact distribution that the settings define."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from deepseek.core.llm import SamplingParams
from deepseek.engine.sampler import Sampler, candidates, penalise, top_logprobs

LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0, -3.0, 1.5, 0.5])
DRAWS = 4_000
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"temperature": 1.0, "top_k": 3},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 0.7, "top_p": 0.3},
    {"temperature": 1.0, "min_p": 0.3},
    {"temperature": 1.5, "top_k": 6, "top_p": 0.9, "min_p": 0.05},
    {"temperature": 1.0, "repetition_penalty": 2.0},
    {"temperature": 1.0, "logit_bias": {0: -3.0, 5: 4.0, 7: -100.0}},
    {"temperature": 1.0, "frequency_penalty": 0.8},
    {"temperature": 1.0, "presence_penalty": 1.5},
    {"temperature": 0.8, "presence_penalty": -1.0, "frequency_penalty": 0.5, "min_p": 0.02},
    {
        "temperature": 1.3,
        "repetition_penalty": 1.5,
        "frequency_penalty": 0.4,
        "presence_penalty": 0.3,
        "logit_bias": {1: 1.0, 6: -1.0},
        "top_k": 6,
    },
]
ANSWER = (1, 1, 1, 3, 6)
"""What the answer has already, for the penalties that count it."""


def exact(logits: torch.Tensor, seen: set[int], settings: dict[str, Any]) -> list[float]:
    """The distribution from its definition, in plain Python."""
    scores = logits.tolist()
    for i, value in settings.get("logit_bias", {}).items():
        scores[i] += value
    penalty = settings.get("repetition_penalty", 1.0)
    for i in seen:
        scores[i] = scores[i] / penalty if scores[i] > 0 else scores[i] * penalty
    for i in set(ANSWER) if counts_answer(settings) else ():
        scores[i] -= settings.get("presence_penalty", 0.0)
        scores[i] -= settings.get("frequency_penalty", 0.0) * ANSWER.count(i)
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    order = order[: settings.get("top_k") or len(order)]
    weights = {i: math.exp(scores[i] / settings["temperature"]) for i in order}
    total = sum(weights.values())
    kept, mass = [], 0.0
    for i in order:
        if mass < settings.get("top_p", 1.0):
            kept.append(i)
        mass += weights[i] / total
    floor = settings.get("min_p", 0.0) * max(weights.values())
    kept = [i for i in kept if weights[i] >= floor]
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(scores))]


def counts_answer(settings: dict[str, Any]) -> bool:
    return "presence_penalty" in settings or "frequency_penalty" in settings


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_draws_follow_the_distribution(settings: dict[str, Any]) -> None:
    seen = {0, 4} if "repetition_penalty" in settings else set()
    sampler = Sampler(SamplingParams(seed=5, **settings), prompt=seen)
    if counts_answer(settings):
        for token_id in ANSWER:
            sampler.note(token_id)
        seen = seen | set(ANSWER) if seen else seen
    wanted = exact(LOGITS, seen, settings)
    counts = [0] * len(LOGITS)
    for _ in range(DRAWS):
        counts[sampler.choose(LOGITS)] += 1
    assert all(count == 0 for count, p in zip(counts, wanted, strict=True) if p == 0)
    chi_square = sum(
        (count - DRAWS * p) ** 2 / (DRAWS * p)
        for count, p in zip(counts, wanted, strict=True)
        if p > 0
    )
    # 7 degrees of freedom at most: above 24.3 with probability 0.001.
    assert chi_square < 24.3


@pytest.mark.parametrize(
    "settings",
    [s for s in SETTINGS if set(s) <= {"temperature", "top_k", "top_p", "min_p"}],
    ids=str,
)
def test_candidates_of_a_large_vocabulary(settings: dict[str, Any]) -> None:
    logits = 3 * torch.randn(5_000, generator=torch.Generator().manual_seed(1))
    probabilities, ids = candidates(logits.numpy(), SamplingParams(**settings))
    assert ids.tolist() == sorted(ids.tolist())
    got = torch.zeros(5_000)
    got[torch.from_numpy(ids)] = torch.from_numpy(probabilities)
    torch.testing.assert_close(got, torch.tensor(exact(logits, set(), settings)))


def test_top_p_of_equal_tokens() -> None:
    equal = np.zeros(10, dtype=np.float32)
    probabilities, ids = candidates(equal, SamplingParams(temperature=1.0, top_p=0.35))
    assert ids.tolist() == [0, 1, 2, 3]
    assert probabilities.tolist() == [0.25] * 4


@pytest.mark.parametrize("n", [1, 20, 77, 78, 79, 1_000])
def test_top_k_with_equal_scores(n: int) -> None:
    """Blocks of one maximum, blocks that hold none, and fewer tokens than are asked for."""
    generator = torch.Generator().manual_seed(n)
    rough = torch.randn(5_003, generator=generator).mul(3).round()
    rough[64:1_000] = -math.inf
    _, ids = candidates(rough.numpy(), SamplingParams(temperature=1.0, top_k=n))
    order = sorted(range(5_003), key=lambda i: (-float(rough[i]), i))
    assert ids.tolist() == sorted(order[:n])


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1 - 2**-53])
def test_draws_from_many_tokens_of_which_most_are_forbidden(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four equal tokens: which one is drawn follows from the share; its neighbours never are."""
    right = (64, 127, 4_000, 4_998)
    logits = torch.full((5_000,), -math.inf)
    logits[list(right)] = 2.0
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([share], dtype=torch.float64))
    drawn = Sampler(SamplingParams(temperature=1.0)).choose(logits)
    assert drawn == right[min(int(4 * share), 3)]


@pytest.mark.parametrize("temperature", [1e-30, 0.0])
def test_tiny_temperatures_take_the_likeliest(temperature: float) -> None:
    sampler = Sampler(SamplingParams(temperature=temperature, seed=1))
    logits = 100 * torch.randn(1_000, generator=torch.Generator().manual_seed(2))
    assert {sampler.choose(logits) for _ in range(50)} == {int(logits.argmax())}


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf])
    sampler = Sampler(SamplingParams(temperature=5.0, seed=3))
    assert {sampler.choose(logits) for _ in range(500)} == {1, 3}


def test_seed_decides() -> None:
    logits = torch.zeros(1_000)

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed))
        return [sampler.choose(logits) for _ in range(20)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(None) != draws(None)


def test_penalty_makes_seen_tokens_less_likely_whatever_their_sign() -> None:
    logits = torch.tensor([2.0, -2.0, 1.0])
    assert penalise(logits.numpy(), {0, 1}, 2.0).tolist() == [1.0, -4.0, 1.0]
    assert logits.tolist() == [2.0, -2.0, 1.0]
    greedy = Sampler(SamplingParams(repetition_penalty=4.0), prompt=[0])
    assert greedy.choose(logits) == 2


def test_penalties_count_the_answer_and_not_the_prompt() -> None:
    logits = torch.tensor([1.0, 0.9, 0.0])
    sampler = Sampler(SamplingParams(frequency_penalty=0.5), prompt=[0, 0, 0])
    chosen = []
    for _ in range(5):
        chosen.append(sampler.choose(logits))
        sampler.note(chosen[-1])
    assert chosen == [0, 1, 0, 1, 0]
    assert logits.tolist() == [1.0, pytest.approx(0.9), 0.0]


def test_only_allowed_tokens_are_picked_whatever_the_other_settings() -> None:
    allowed = torch.tensor([False, True, False, True, False, False, False, False])
    for settings in SETTINGS:
        sampler = Sampler(SamplingParams(seed=1, **settings))
        assert {sampler.choose(LOGITS, allowed) for _ in range(100)} <= {1, 3}
    assert Sampler(SamplingParams()).choose(LOGITS, allowed) == 1


def test_logprobs_are_log_softmax() -> None:
    logits = torch.randn(300, generator=torch.Generator().manual_seed(4)).bfloat16()
    wanted = logits.double().log_softmax(-1)
    logprob, top = top_logprobs(logits, 17, 5)
    assert logprob == pytest.approx(float(wanted[17]), abs=1e-5)
    assert [p for _, p in top] == pytest.approx(wanted.topk(5).values.tolist(), abs=1e-5)
    assert all(p == pytest.approx(float(wanted[i]), abs=1e-5) for i, p in top)
    assert top_logprobs(logits, 17, 0)[1] == []
