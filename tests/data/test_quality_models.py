"""The trigram model is the textbook's, the classifier learns, quantiles hold within domains."""

import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from quality_corpus import made, operator, prose

from deepseek.data.grams import token_hashes
from deepseek.data.quality.logistic import LogisticModel
from deepseek.data.quality.ngrams import FALLBACK, NgramModel
from deepseek.data.quality.operator import Survey

TEXTS = [prose(seed, 12) for seed in range(30)]


class PlainModel:
    """Modified Kneser-Ney with dictionaries of words: the slow reference."""

    def __init__(self, texts):
        padded = [["^", "^", *words(text)] for text in texts]
        runs = Counter(tuple(row[i - 2 : i + 1]) for row in padded for i in range(2, len(row)))
        self.tables = []
        for _ in range(3):
            self.tables.append(self._table(runs))
            runs = Counter(run[1:] for run in runs)
        self.tables.reverse()

    def _table(self, runs):
        n = [sum(1 for c in runs.values() if c == k) for k in range(5)]
        discounts = FALLBACK
        if min(n[1:]) > 0:
            y = n[1] / (n[1] + 2 * n[2])
            found = [1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
            if all(0 < d < k for d, k in zip(found, (1, 2, 3), strict=True)):
                discounts = found
        totals, taken = defaultdict(float), defaultdict(float)
        for run, c in runs.items():
            totals[run[:-1]] += c
            taken[run[:-1]] += discounts[min(c, 3) - 1]
        share = {r: (c - discounts[min(c, 3) - 1]) / totals[r[:-1]] for r, c in runs.items()}
        return share, {context: taken[context] / totals[context] for context in totals}

    def probability(self, run):
        p = 1 / (len(self.tables[0][0]) + 1)
        for n in (1, 2, 3):
            share, left = self.tables[n - 1]
            part = run[3 - n :]
            if part[:-1] in left:
                p = share.get(part, 0.0) + left[part[:-1]] * p
        return p


def words(text):
    return [w.strip(".,").lower() for w in text.split()]


def test_probabilities_are_the_textbooks():
    fast, slow = NgramModel.train(TEXTS), PlainModel(TEXTS)
    unseen = [prose(99, 4), "quite unheard words of the river", TEXTS[0], "word"]
    found = fast.log_probabilities([token_hashes(text) for text in unseen])
    for text, values in zip(unseen, found, strict=True):
        row = ["^", "^", *words(text)]
        wanted = [math.log(slow.probability(tuple(row[i - 2 : i + 1]))) for i in range(2, len(row))]
        np.testing.assert_allclose(values, wanted, rtol=1e-9)


def test_all_words_share_a_probability_of_one():
    model = PlainModel(TEXTS)
    known = {run[0] for run in model.tables[0][0]}
    for context in (("^", "^"), ("the", "river"), ("never", "seen")):
        total = sum(model.probability((*context, word)) for word in known)
        assert total + model.probability((*context, "unknown")) == pytest.approx(1)


def test_a_saved_model_is_the_same(tmp_path):
    model = NgramModel.train(TEXTS)
    model.save(tmp_path / "model.npz")
    again = NgramModel.load(tmp_path / "model.npz")
    tokens = [token_hashes(TEXTS[0])]
    np.testing.assert_array_equal(
        again.log_probabilities(tokens)[0], model.log_probabilities(tokens)[0]
    )


def test_perplexity_tells_noise_from_prose(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    (tmp_path / "good.txt").write_text("\n".join(TEXTS))
    found = operator("perplexity", tmp_path, reference=["good.txt"])
    shuffled = " ".join(sorted(prose(50).split()))
    values = found.score(made(prose(50), shuffled, "!!!"))["perplexity"]
    assert values[1] > 3 * values[0]
    assert np.isnan(values[2])
    assert len(list((tmp_path / "home" / "quality").iterdir())) == 1


def test_words_in_no_order_save_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    (tmp_path / "good.txt").write_text("\n".join(TEXTS))
    words = prose(50).split()
    random.Random(0).shuffle(words)
    documents = made(prose(50), " ".join(words), "!!!")
    settings = {"reference": ["good.txt"], "above": 1.0}
    found = operator("perplexity", tmp_path, least_order=0.1, **settings)
    scores = found.score(documents)
    saved = scores["order"]
    assert saved[0] > 0.5
    assert saved[1] < 0.1
    assert np.isnan(saved[2])
    reasons = [decision.reason for decision in found.decide(documents, scores)]
    assert reasons == ["", f"order {saved[1]:.4g} is below 0.1", ""]
    plain = operator("perplexity", tmp_path, **settings)
    assert [decision.reason for decision in plain.decide(documents, scores)] == [""] * 3


def test_the_classifier_learns_and_keeps(tmp_path):
    good = [prose(seed, 8) for seed in range(40)]
    bad = [f"buy cheap {i} pills online now best price casino {i} click here" for i in range(10)]
    model = LogisticModel.train(good, bad)
    chances = model.chances([prose(90, 8), "click here for the best casino price", ""])
    assert chances[0] > 0.8 > 0.2 > chances[1]
    assert 0 < chances[2] < 1
    model.save(tmp_path / "model.npz")
    again = LogisticModel.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(again.chances(good), model.chances(good))


def test_quantiles_hold_within_each_domain(tmp_path):
    (tmp_path / "good.txt").write_text("words")
    found = operator("perplexity", tmp_path, reference=["good.txt"], below=0.1, above=0.9)
    values = np.r_[np.arange(100.0), 1000 + np.arange(100.0), np.nan]
    domain = np.r_[np.zeros(100, np.int32), np.ones(101, np.int32)].astype(np.int32)
    survey = Survey(np.arange(201), ("web", "code"), domain, {"perplexity": values}, lambda n: [])
    found.settle(survey)
    other = operator("perplexity", tmp_path, reference=["good.txt"], below=0.1, above=0.9)
    other.restore(found.state())
    for name, start in (("web", 0), ("code", 1000)):
        documents = made(*["t"] * 100, domain=name)
        decisions = other.decide(documents, {"perplexity": start + np.arange(100.0)})
        dropped = [i for i, decision in enumerate(decisions) if decision.reason]
        assert dropped == [*range(10), *range(90, 100)]
    nan = other.decide(made("t"), {"perplexity": np.array([np.nan])})
    assert nan[0].reason == ""
