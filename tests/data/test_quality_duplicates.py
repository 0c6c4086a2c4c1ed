"""Equal and nearly equal documents are found, and the first of each group stays."""

import random

import numpy as np
from quality_corpus import made, operator, prose

from deepseek.data.quality.minhash import Groups, run_hashes
from deepseek.data.quality.operator import Survey
from deepseek.data.quality.words import words_of


def dropped(name, texts, **settings):
    found, documents = operator(name, **settings), made(*texts)
    scores = found.score(documents)
    survey = Survey(
        np.arange(len(texts)),
        ("web",),
        np.zeros(len(texts), np.int32),
        scores,
        lambda numbers: [documents[n].id for n in numbers],
    )
    found.settle(survey)
    other = operator(name, **settings)
    other.restore(found.state())
    return [decision.reason for decision in other.decide(documents, scores)]


def changed(text: str, share: float, seed: int) -> str:
    """A text with a share of its words replaced."""
    generator, words = random.Random(seed), text.split(" ")
    for place in generator.sample(range(len(words)), round(share * len(words))):
        words[place] = f"word{generator.randrange(10**6)}"
    return " ".join(words)


def test_the_same_text_stays_once():
    texts = [prose(1), prose(2), prose(1), prose(1) + " More.", f" {prose(2)}\n"]
    assert dropped("exact", texts) == ["", "", "same text as: d0", "", "same text as: d1"]
    assert dropped("exact", []) == []


def test_near_duplicates_are_found_through_others():
    base = [prose(seed, 40) for seed in range(6)]
    near = [changed(text, 0.01, seed) for seed, text in enumerate(base)]
    nearer = [changed(text, 0.01, 50 + seed) for seed, text in enumerate(near)]
    found = dropped("minhash", [*base, *near, *nearer, *[prose(s, 40) for s in range(60, 90)]])
    assert found[:6] == [""] * 6
    assert found[6:18] == [f"near duplicate of: d{i}" for i in range(6)] * 2
    assert found[18:] == [""] * 30


def test_case_signs_and_numbers_make_no_difference():
    text = prose(1, 20) + " In 1999 it was 17."
    other = text.upper().replace(".", " ! ").replace("1999", "2024")
    assert dropped("minhash", [text, other]) == ["", "near duplicate of: d0"]


def test_texts_without_a_run_are_no_duplicates():
    assert dropped("minhash", ["one two", "one two", "", "", "... !!!", "... !!!"]) == [""] * 6


def test_runs_are_those_of_each_text():
    texts = ["a b c d e f", "", "g h i", "b c d e f g", "a, b c - d e"]
    hashes, starts = run_hashes(words_of(texts), 5)
    assert np.diff(starts).tolist() == [2, 0, 0, 2, 1]
    by_text = np.split(hashes, starts[1:-1])
    assert by_text[0][1] == by_text[3][0]
    assert by_text[0][0] == by_text[4][0]
    assert len(set(hashes.tolist())) == 3


def test_bands_meet_as_often_as_the_formula_says():
    """300 pairs at each overlap; the formula within three standard errors."""
    texts, overlaps = [], []
    for seed in range(300):
        text = prose(seed, 30)
        other = changed(text, 0.03 + 0.04 * (seed % 2), seed)
        runs = [set(np.split(*_runs([t]))[0].tolist()) for t in (text, other)]
        overlaps.append(len(runs[0] & runs[1]) / len(runs[0] | runs[1]))
        texts += [text, other]
    bands = operator("minhash").score(made(*texts))["bands"]
    found = (bands[0::2] == bands[1::2]).any(axis=1)
    chances = 1 - (1 - np.array(overlaps) ** 8) ** 14
    error = np.sqrt((chances * (1 - chances)).sum())
    assert abs(found.sum() - chances.sum()) < 3 * error


def _runs(texts):
    hashes, starts = run_hashes(words_of(texts), 5)
    return hashes, starts[1:-1]


def test_groups_are_led_by_their_first():
    groups = Groups(6)
    for pair in ((5, 4), (4, 2), (1, 0)):
        groups.join(*pair)
    assert groups.firsts().tolist() == [0, 0, 2, 3, 2, 2]
