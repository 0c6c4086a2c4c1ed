"""Tokens and their hashes: evened out, placed, stable, and spread like random numbers."""

import os
import subprocess
import sys
import sysconfig
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.data import grams
from deepseek.data.grams import count_words, gram_hashes, token_hashes, token_places

STDLIB = Path(sysconfig.get_paths()["stdlib"])


def grams_of(text, length=13):
    return dict(gram_hashes(token_hashes(text), (length,))).get(length, np.zeros(0, np.uint64))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The quick, brown fox!", "the QUICK brown   fox"),
        ("don't stop", "dont STOP"),
        ("it’s", "its"),
        ("f(x) == g[y]", "f x g y"),
        ("snake_case", "snake case"),
        ("café", "cafe\u0301"),
        ("ＡＢＣ１２", "abc12"),
        ("人工智能，是", "人 工 智 能 是"),
        ("ｶﾞｷﾞ", "ガギ"),
        ("ﬁne … ½", "fine 1⁄2"),
        ("Straße", "STRASSE"),
        ("ΣΑΣ", "σας"),
    ],
)
def test_case_punctuation_and_white_space_do_not_matter(one, other):
    assert token_hashes(one).tolist() == token_hashes(other).tolist()


def test_words_and_their_order_matter():
    base = token_hashes("the cat sat on the mat").tolist()
    assert base != token_hashes("the cat sat on a mat").tolist()
    assert base != token_hashes("cat the sat on the mat").tolist()
    assert len(set(base)) == 5
    assert token_hashes("?! … —").tolist() == []


@given(st.text(max_size=60))
def test_every_token_has_a_place_that_gives_it_again(text):
    tokens, places = token_hashes(text), token_places(text)
    assert len(tokens) == len(places)
    assert (places[:, 0] < places[:, 1]).all()
    assert (np.diff(places[:, 0]) >= 0).all()
    for value, (start, end) in zip(tokens.tolist(), places.tolist(), strict=True):
        assert value in token_hashes(text[start:end]).tolist()


def test_everything_that_composes_with_what_stands_before_is_known():
    for number in range(sys.maxunicode + 1):
        parts = unicodedata.normalize("NFD", chr(number))
        if 0xD800 <= number <= 0xDFFF or unicodedata.normalize("NFC", parts) != chr(number):
            continue
        assert all(grams._joins(part) for part in parts[1:]), hex(number)


def test_places_are_of_the_text_as_it_was_given():
    text = "Ein ﬁnales „Wort“ — 人工 cafe\u0301."
    shown = [text[a:b] for a, b in token_places(text).tolist()]
    assert shown == ["Ein", "ﬁnales", "Wort", "人", "工", "cafe\u0301"]


def test_a_gram_is_the_same_wherever_it_stands():
    text = " ".join(f"word{i}" for i in range(40))
    whole = grams_of(text)
    assert len(whole) == len(set(whole.tolist())) == 28
    for start in (0, 5, 27):
        part = " ".join(f"word{i}" for i in range(start, start + 13))
        assert grams_of(part).tolist() == [whole[start]]


def test_longer_grams_go_on_from_shorter_ones():
    tokens = token_hashes("one two three four five")
    by_length = dict(gram_hashes(tokens, (5, 2, 9)))
    assert sorted(by_length) == [2, 5]
    assert by_length[2].tolist() == dict(gram_hashes(tokens, (2,)))[2].tolist()
    assert (len(by_length[2]), len(by_length[5])) == (4, 1)


def test_words_of_a_gram_are_counted_once_each_and_numbers_and_letters_not():
    counts = count_words(token_hashes("an ox an 1 2 cat dog"), 4)
    assert counts.tolist() == [2, 2, 2, 2]
    assert count_words(token_hashes("0 1 2 3 4 5"), 6).tolist() == [0]
    assert count_words(token_hashes("x y z w v u"), 6).tolist() == [0]
    assert count_words(token_hashes("人工智能2x"), 5).tolist() == [5]


def test_hashes_are_the_same_in_every_process():
    text = "Determinism across processes: 人工智能 and 13-grams, whatever PYTHONHASHSEED says. " * 2
    code = (
        "import sys; from deepseek.data.grams import *;"
        "print([h.tolist() for _, h in gram_hashes(token_hashes(sys.argv[1]), (8, 13))])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, text],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(outputs) == 1
    # And in every version: an index that was saved must go on working.
    assert token_hashes("hello").tolist() == [9022087748821825191]
    assert grams_of("a b c d e f g h i j k l m").tolist() == [14911051339439071954]


def test_grams_of_real_text_meet_no_more_than_random_numbers_do():
    files = sorted(STDLIB.glob("*.py"))[:60]
    text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    tokens = token_hashes(text)
    runs = np.lib.stride_tricks.sliding_window_view(tokens, 13)
    # Beside real runs of words, those that differ in one word or in the order of two.
    generator = np.random.default_rng(1)
    changed, swapped = (runs[generator.integers(0, len(runs), 50_000)] for _ in range(2))
    every = np.arange(50_000)
    changed[every, generator.integers(0, 13, 50_000)] = generator.choice(tokens, 50_000)
    place = generator.integers(0, 12, 50_000)
    swapped[every, place], swapped[every, place + 1] = (
        swapped[every, place + 1],
        swapped[every, place],
    )
    distinct = np.unique(np.concatenate((runs, changed, swapped)), axis=0)
    hashes = dict(gram_hashes(distinct.reshape(-1), (13,)))[13][::13]
    assert len(np.unique(hashes)) == len(distinct)
    # 32 of the 64 bits must collide as often as the birthday problem says, at either end.
    expected = len(distinct) ** 2 / 2**33
    assert expected > 5
    for shift in (0, 16, 32):
        part = (hashes >> np.uint64(shift)).astype(np.uint32)
        collisions = len(part) - len(np.unique(part))
        assert abs(collisions - expected) < 5 * expected**0.5
