"""Needles: RULER's templates word for word, and what is asked is what is hidden."""

from random import Random

import pytest

from deepseek.eval.ruler.needles import NEEDLES, NOISE, needle_recipe

WORDS = ["One", "two", "three.", "Four", "five!", "Six?", "Seven", "eight."]


def essay(n_words: int) -> list[str]:
    return (WORDS * n_words)[:n_words]


def test_a_single_needle_in_noise_in_full() -> None:
    recipe = needle_recipe("niah_single_1", essay)
    filled = recipe.build(Random("s"), 2)
    assert filled.text == (
        "A special magic number is hidden within the following text. Make sure to memorize it. I"
        " will quiz you about the number afterwards.\n"
        f"One of the special magic numbers for malicious-matter is: 6639887.\n{NOISE}\n{NOISE}\n"
        "What is the special magic number for malicious-matter mentioned in the provided text? The"
        " special magic number for malicious-matter mentioned in the provided text is"
    )
    assert filled.outputs == ["6639887"]
    assert (recipe.least, recipe.max_tokens, recipe.match) == (1, 128, "all")


def test_four_values_in_an_essay_in_full() -> None:
    filled = needle_recipe("niah_multivalue", essay).build(Random("s"), 8)
    needle = "One of the special magic numbers for malicious-matter is:"
    assert filled.text == (
        "Some special magic numbers are hidden within the following text. Make sure to memorize"
        " it. I will quiz you about the numbers afterwards.\n"
        f" {needle} 1021707.  {needle} 6639887. One two three. {needle} 3017463. Four five!"
        f" {needle} 1014359. Six? Seven eight.\n"
        "What are all the special magic numbers for malicious-matter mentioned in the provided"
        " text? The special magic numbers for malicious-matter mentioned in the provided text are"
    )
    assert filled.outputs == ["6639887", "1021707", "1014359", "3017463"]


def test_queries_are_joined() -> None:
    filled = needle_recipe("niah_multiquery", essay).build(Random("s"), 8)
    assert (
        "What are all the special magic numbers for tart-abnormality, neighborly-settler,"
        " malicious-matter, and chilly-kid mentioned in the provided text?"
    ) in filled.text
    assert filled.outputs == ["1014359", "3980881", "6639887", "6959832"]


@pytest.mark.parametrize(
    ("name", "n_needles", "n_outputs", "kind"),
    [
        ("niah_single_1", 1, 1, "numbers"),
        ("niah_single_2", 1, 1, "numbers"),
        ("niah_single_3", 1, 1, "uuids"),
        ("niah_multikey_1", 4, 1, "numbers"),
        ("niah_multikey_2", 41, 1, "numbers"),
        ("niah_multikey_3", 41, 1, "uuids"),
        ("niah_multivalue", 4, 4, "numbers"),
        ("niah_multiquery", 4, 4, "numbers"),
    ],
)
def test_complexities(name: str, n_needles: int, n_outputs: int, kind: str) -> None:
    for seed in range(20):
        filled = needle_recipe(name, essay).build(Random(seed), 40)
        assert filled.text.count(f"One of the special magic {kind} for") == n_needles
        assert len(filled.outputs) == n_outputs == len(set(filled.outputs))
        question = filled.text.rpartition("\nWhat ")[2]
        for output in filled.outputs:
            line = next(part for part in filled.text.split("One of ") if f" is: {output}." in part)
            key = line.partition(" for ")[2].partition(" is: ")[0]
            assert f"{key} mentioned" in question or f"{key}, " in question
            # No other needle has the key.
            assert filled.text.count(f" for {key} is: ") == (4 if name == "niah_multivalue" else 1)


def test_all_eight() -> None:
    assert list(NEEDLES) == [
        *("niah_single_1", "niah_single_2", "niah_single_3"),
        *("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
        *("niah_multivalue", "niah_multiquery"),
    ]


def test_needles_stand_at_all_depths() -> None:
    places = []
    for seed in range(60):
        filled = needle_recipe("niah_single_2", essay).build(Random(seed), 400)
        context = filled.text.split("\n")[1]
        places.append(context.index("One of the special") / len(context))
    assert min(places) < 0.1
    assert max(places) > 0.9
    assert 0.35 < sum(places) / 60 < 0.65
