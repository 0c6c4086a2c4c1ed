"""Semantic entropy: its arithmetic, its clusters, and answers drawn from a real tiny model."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.core.errors import ConfigError
from deepseek.core.llm import Completion, LanguageModel, Prompt, SamplingParams, TokenLogprob
from deepseek.data.entropy.annotate import FIELD, Asking, annotate, read_questions, tell_wrong
from deepseek.data.entropy.auroc import auroc, compare_aurocs, rank_auroc
from deepseek.data.entropy.clusters import by_comparison, by_key, by_vectors, linked
from deepseek.data.entropy.estimate import discrete_entropy, likelihood_entropy, uncertainty
from deepseek.data.entropy.sampling import Sampling, draw
from deepseek.data.entropy.signals import ask_p_true, p_true_prompt, signals
from deepseek.engine.engine import Engine
from deepseek.engine.loader import load_engine

CLUSTERS = st.lists(st.integers(0, 5), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def engine(tiny_folder: Path) -> Iterator[Engine]:
    found, _ = load_engine(str(tiny_folder), threads=1)
    yield found
    found.close()


def test_entropy_of_known_shares() -> None:
    assert discrete_entropy([0, 0, 0, 0]) == 0
    assert discrete_entropy([0, 1, 2, 3]) == pytest.approx(math.log(4))
    assert discrete_entropy([0, 0, 0, 1]) == pytest.approx(
        -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    )


@given(CLUSTERS)
def test_entropy_has_bounds_and_does_not_see_the_order(clusters: list[int]) -> None:
    entropy = discrete_entropy(clusters)
    assert 0 <= entropy <= math.log(len(clusters)) + 1e-12
    assert discrete_entropy(clusters[::-1]) == entropy
    assert discrete_entropy([7 - c for c in clusters]) == entropy
    merged = [min(c, 1) for c in clusters]  # fewer meanings are never more uncertain
    assert discrete_entropy(merged) <= entropy + 1e-12


def test_likelihoods_weigh_meanings_and_repeated_texts_once() -> None:
    logs = [math.log(0.6), math.log(0.2), math.log(0.2)]
    wanted = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert likelihood_entropy([0, 0, 1], ["a", "b", "c"], logs) == pytest.approx(wanted)
    again = likelihood_entropy([0, 0, 0, 1], ["a", "a", "b", "c"], [logs[0], *logs])
    assert again == pytest.approx(wanted)
    # Scaled to a sum of 1: unlikely texts of equal likelihood are as uncertain as likely ones.
    assert likelihood_entropy([0, 1], ["a", "b"], [-2000.0, -2000.0]) == pytest.approx(math.log(2))


@given(CLUSTERS)
def test_more_of_the_same_answers_settle_the_estimate(clusters: list[int]) -> None:
    assert uncertainty(clusters * 8) < uncertainty(clusters)
    assert uncertainty(clusters) == uncertainty(clusters[::-1])


def test_the_posterior_covers_the_truth() -> None:
    """The spread that is claimed is about the spread that repeated drawing has."""
    generator = np.random.default_rng(0)
    truth = np.array([0.5, 0.3, 0.2])
    drawn = [generator.choice(3, 40, p=truth).tolist() for _ in range(200)]
    spread = float(np.std([discrete_entropy(one) for one in drawn]))
    claimed = float(np.mean([uncertainty(one) for one in drawn]))
    assert spread / 2 < claimed < 2 * spread


def test_answers_without_a_key_are_like_no_other() -> None:
    assert by_key(["7", None, "7", None, "8"]) == [0, 1, 0, 2, 3]


@given(st.lists(st.sampled_from("aAbBc"), max_size=8))
def test_comparing_gives_what_keys_give(texts: list[str]) -> None:
    same = by_comparison(texts, lambda a, b: a.lower() == b.lower())
    assert same == by_key([text.lower() for text in texts])


def test_vectors_are_joined_by_mean_cosine() -> None:
    angles = np.radians([0.0, 8.0, 90.0, 97.0, 16.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert linked(vectors, 0.96) == [0, 0, 1, 1, 0]
    assert linked(vectors, 0.999) == [0, 1, 2, 3, 4]
    assert linked(vectors, -1.0) == [0] * 5
    # By the mean and not the nearest: 0 and 16 degrees are only joined through 8.
    assert linked(vectors[[0, 1, 4]], math.cos(math.radians(9))) == [0, 0, 1]


def test_a_real_model_makes_clusters(engine: Engine) -> None:
    texts = ["The licence is granted.", "", "the licence is granted", "The licence is granted."]
    found = by_vectors(texts, engine, cosine=-1.0)
    assert found == [0, 1, 0, 0]
    assert by_vectors(texts, engine, cosine=1.1) == [0, 1, 2, 0]


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    generator = np.random.default_rng(1)
    risk = generator.integers(0, 6, 60).astype(float)
    wrong = generator.random(60) < 0.4
    pairs = [(a, b) for a in risk[wrong] for b in risk[~wrong]]
    slow = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert rank_auroc(risk, wrong) == pytest.approx(slow)
    found = auroc(risk.tolist(), wrong.tolist())
    assert found is not None
    assert found.low < slow < found.high
    assert (found.n_wrong, found.n_right) == (int(wrong.sum()), int((~wrong).sum()))
    assert auroc([1.0, 2.0], [True, True]) is None
    perfect = compare_aurocs({"a": [3.0, 2.0, 1.0], "b": [1.0, 1.0, 1.0]}, [True, True, False])
    assert perfect["a"].value == 1.0
    assert perfect["b"].value == perfect["b"].low == perfect["b"].high == 0.5


PROMPTS = ["Licensed under the", "You may not use", "The copyright holder"]
SETTINGS = Sampling(samples=6, first=2, step=2, max_tokens=4, tolerance=0.25)


def lone(i: int, texts: Sequence[str]) -> list[int]:
    return by_key([text[:1] for text in texts])


def test_answers_do_not_depend_on_neighbours(engine: Engine) -> None:
    together = draw(engine, PROMPTS, ["a", "b", "c"], lone, SETTINGS)
    for i, name in enumerate("abc"):
        (alone,) = draw(engine, [PROMPTS[i]], [name], lone, SETTINGS)
        assert [s.text for s in alone.samples] == [s.text for s in together[i].samples]
        assert alone.greedy.text == together[i].greedy.text
    other = draw(engine, PROMPTS[:1], ["another name"], lone, SETTINGS)
    assert [s.text for s in other[0].samples] != [s.text for s in together[0].samples]


def test_stopping_early_leaves_out_answers_and_changes_none(engine: Engine) -> None:
    early = draw(engine, PROMPTS, ["a", "b", "c"], lone, SETTINGS)
    fixed = Sampling(samples=6, first=6, max_tokens=4)
    full = draw(engine, PROMPTS, ["a", "b", "c"], lone, fixed)
    for one, all_of_it in zip(early, full, strict=True):
        texts = [sample.text for sample in all_of_it.samples]
        assert len(texts) == 6
        assert [sample.text for sample in one.samples] == texts[: len(one.samples)]
        assert len(one.samples) == 6 or one.settled <= SETTINGS.tolerance


def test_logprobs_are_the_models_own(engine: Engine) -> None:
    (one,) = draw(engine, PROMPTS[:1], ["a"], lone, SETTINGS)
    text = one.greedy.text
    assert one.greedy.logprob == pytest.approx(
        sum(
            t.logprob
            for t in engine.generate(PROMPTS[0], SamplingParams(max_tokens=4, logprobs=0)).logprobs
        )
    )
    assert one.greedy.n_tokens == len(
        engine.generate(PROMPTS[0], SamplingParams(max_tokens=4)).token_ids
    )
    found = signals(one)
    assert found.likelihood_entropy is not None
    assert found.mean_logprob == pytest.approx(one.greedy.logprob / one.greedy.n_tokens)
    assert text


def test_p_true_is_the_share_of_true(engine: Engine) -> None:
    (one,) = draw(engine, PROMPTS[:1], ["a"], lone, SETTINGS)
    value = ask_p_true(engine, "What is granted?", one)
    true, false = engine.score(p_true_prompt("What is granted?", one), ["True", "False"])
    share = math.exp(true.logprob) / (math.exp(true.logprob) + math.exp(false.logprob))
    assert value == pytest.approx(share)


class Coin(LanguageModel):
    """Says `1` in one of so many answers as its prompt says, else `0`."""

    name = "coin"
    context_window = 100
    asked = 0

    def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> Completion:
        assert params is not None
        self.asked += 1
        word = str(int((params.seed or 0) % int(str(prompt)) == 0))
        logprobs = (TokenLogprob(word, 1, -0.5),)
        return Completion(
            text=word, token_ids=(1,), finish_reason="stop", n_prompt_tokens=1, logprobs=logprobs
        )


def test_settled_questions_get_no_more_answers() -> None:
    model = Coin()
    sampling = Sampling(samples=32, first=4, step=4, tolerance=0.15)
    drawn = draw(model, ["1", "2", "3"], ["a", "b", "c"], lambda i, texts: by_key(texts), sampling)
    assert model.asked == 3 + sum(len(one.samples) for one in drawn)
    for one in drawn:
        n = len(one.samples)
        assert n == 32 or uncertainty(one.clusters) <= 0.15
        assert all(uncertainty(one.clusters[:k]) > 0.15 for k in range(4, n, 4))
    assert len({len(one.samples) for one in drawn}) > 1
    exact = Sampling(samples=8, first=4, step=3, tolerance=0.0)
    (all_drawn,) = draw(model, ["2"], ["c"], lambda i, texts: by_key(texts), exact)
    assert len(all_drawn.samples) == 8


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 1},
        {"samples": 65},
        {"first": 1},
        {"first": 11},
        {"temperature": 0.0},
        {"step": 0},
    ],
)
def test_settings_out_of_range_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is "):
        Sampling(**wrong)


def test_questions_of_a_file_are_annotated(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(
        '{"question": "What is 2 + 2?", "answer": 4, "verifier": "number", "more": [1]}\n'
        '\n{"question": "Say something."}\n',
        encoding="utf-8",
    )
    questions = read_questions(file, "text")
    rows = list(annotate(engine, questions, SETTINGS, Asking()))
    assert [row["question"] for row in rows] == ["What is 2 + 2?", "Say something."]
    assert rows[0]["more"] == [1]
    assert rows[0][FIELD]["is_wrong"] in (True, False)
    assert "is_wrong" not in rows[1][FIELD]
    for row in rows:
        field = row[FIELD]
        assert sum(field["meanings"]) == field["n_samples"]
        assert 0 <= field["p_true"] <= 1
    assert rows == list(annotate(engine, questions, SETTINGS, Asking()))
    assert tell_wrong(rows) == {}
    with pytest.raises(ConfigError, match="no embedding model"):
        list(annotate(engine, questions, SETTINGS, Asking(verifier="vectors")))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "q.jsonl:1 is no JSON object"),
        ('{"text": "x"}', "q.jsonl:1 has no question"),
        ('{"question": "x", "answer": [1]}', "answer is"),
        ('{"question": "x", "verifier": "program"}', "names, tests and calls"),
    ],
)
def test_malformed_questions_are_told(line: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(line, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        read_questions(file, "text")


def test_signals_that_tell_are_found() -> None:
    rows = [
        {
            FIELD: {
                "is_wrong": wrong,
                "entropy": e,
                "likelihood_entropy": None,
                "length": 3,
                "mean_logprob": -e,
                "p_true": 1 - e,
            }
        }
        for wrong, e in ((True, 0.9), (True, 0.8), (False, 0.1), (False, 0.2))
    ]
    found = tell_wrong(rows)
    assert {name: value.value for name, value in found.items()} == {
        "entropy": 1.0,
        "length": 0.5,
        "mean_logprob": 1.0,
        "p_true": 1.0,
    }
