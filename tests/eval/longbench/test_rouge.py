"""ROUGE-L is that of the package `rouge`, and ends where its recursion ends."""

import random

import pytest
from rouge import Rouge

from deepseek.eval.longbench.rouge import STEPS, rouge_l


def by_package(prediction: str, truth: str) -> float:
    scores = Rouge().get_scores([prediction], [truth], avg=True)
    return float(scores["rouge-l"]["f"])


def test_by_hand() -> None:
    # "the cat" is common; 3 distinct words here, 4 there: recall 2/4, precision 2/3.
    score = rouge_l("the cat sat", "the black cat ran")
    assert score == pytest.approx(2 * (2 / 4 * 2 / 3) / (2 / 4 + 2 / 3), abs=1e-7)
    assert rouge_l("same words", "same words") == pytest.approx(1, abs=1e-7)
    assert rouge_l("one", "other") == 0


def test_sentences_join_their_common_words() -> None:
    # Of "a b c d", the first sentence has "a b", the second "c": 3 of 4 and 3 of 5 words.
    score = rouge_l("a b x. c y", "a b c d")
    assert score == pytest.approx(2 * (3 / 4 * 3 / 5) / (3 / 4 + 3 / 5), abs=1e-7)


@pytest.mark.parametrize(("prediction", "truth"), [("", "x"), ("x", ""), ("...", "x"), ("", "")])
def test_no_sentence_scores_0(prediction: str, truth: str) -> None:
    with pytest.raises((ValueError, AssertionError)):
        by_package(prediction, truth)
    assert rouge_l(prediction, truth) == 0


def test_the_same_number_as_the_package() -> None:
    generator = random.Random(5)
    signs = ["a", "b", "c", "dd", "E", ".", ". ", "\n", "  ", "é", "中"]
    scored = 0
    for _ in range(400):
        texts = [" ".join(generator.choices(signs, k=generator.randint(3, 40))) for _ in range(2)]
        texts = [generator.choice("xab") + text for text in texts]
        assert rouge_l(*texts) == by_package(*texts), texts
        scored += rouge_l(*texts) > 0
    assert scored > 300


def test_too_long_sentences_score_0() -> None:
    # The official script gives 990 equal words their score and 991 none; divided Chinese 989.
    fits = " ".join(f"w{i}" for i in range(STEPS))
    assert rouge_l(fits, fits) > 0.99
    assert rouge_l(f"{fits} more", f"{fits} more") == 0
    assert rouge_l(fits, fits, STEPS - 1) == 0
    # A long sentence beside others spoils the whole answer; two halves do not.
    assert rouge_l(f"short. {fits} more", f"{fits} more") == 0
    halves = f"{fits[:3000]}. {fits[3000:]}"
    assert rouge_l(halves, halves) > 0.9
