"""Each rule drops what it is for and leaves good prose; scores do not depend on neighbours."""

import random

import numpy as np
import pytest
from quality_corpus import made, operator, prose, reasons

from deepseek.core.errors import ConfigError

GOOD = [prose(seed) for seed in range(8)]


@pytest.mark.parametrize("name", ["gopher", "repetition", "c4", "fineweb", "language"])
def test_good_prose_passes(name):
    assert reasons(operator(name), made(*GOOD)) == [""] * len(GOOD)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Too short to be of use.", "words 6 is below 50"),
        ("a b c d e f " * 20, "word length 1 is below 3"),
        ("incomprehensibilities " * 60, "word length 21 is above 10"),
        ("#tagged there toward " * 40, "hashes"),
        (GOOD[0].replace("the", "... the"), "ellipses"),
        ("\n".join("- " + line for line in GOOD[0].splitlines()), "bullet lines 1 is above 0.9"),
        ("\n".join(line + "..." for line in GOOD[0].splitlines()), "ellipsis lines"),
        (GOOD[0].replace(" the ", " 123 456 789 "), "alpha words"),
        (" ".join(["green", "apple", "falls"] * 20), "stop words 0 is below 2"),
    ],
)
def test_gopher_names_the_rule(text, reason):
    assert reasons(operator("gopher"), made(text))[0].startswith(reason)


def test_repetition_names_the_rule():
    again = "the very same paragraph of words\n\n"
    texts = [again * 10, GOOD[0] + "\n" + "one line\n" * 30, "very nice " * 100]
    found = reasons(operator("repetition"), made(*texts))
    assert found[0].startswith("paragraphs 0.9")
    assert found[1].startswith("lines")
    assert found[2].startswith("top 2")
    assert reasons(operator("repetition", top_2=0.0, top_3=0.0, top_4=0.0), made(texts[2]))[
        0
    ].startswith("repeated 5")


def plain_run_characters(words: list[str], n: int) -> tuple[int, int]:
    """The reference: the most frequent run of n words, and runs that were there before."""
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    counts: dict[tuple[str, ...], int] = {}
    for run in runs:
        counts[run] = counts.get(run, 0) + 1
    best = max(counts, key=lambda run: counts[run]) if counts else ()
    top = (sum(map(len, best)) + len(best) - 1) * counts[best] if counts else 0
    seen, i, again = set(), 0, 0
    while i < len(runs):
        if runs[i] in seen:
            again += sum(map(len, runs[i]))
            i += n
        else:
            seen.add(runs[i])
            i += 1
    return top, again


def test_runs_are_counted_as_one_by_one():
    from deepseek.data.quality.repetition import REPEATED, TOP, run_characters
    from deepseek.data.quality.words import words_of

    generator = random.Random(3)
    texts = ["", "one", "a a a a a a a a a a a a a a a a a a a a a a a"]
    for size in (3, 4, 12, 40):
        for vocabulary in (2, 4, 9, 50):
            words = ["w" + "x" * (i % 4) + str(i) for i in range(vocabulary)]
            texts.append(" ".join(generator.choice(words) for _ in range(size * 5)))
    found = run_characters(words_of(texts))
    for row, text in enumerate(texts):
        for n in TOP:
            assert found[f"top_{n}"][row] == plain_run_characters(text.split(), n)[0], (n, text)
        for n in REPEATED:
            assert found[f"repeated_{n}"][row] == plain_run_characters(text.split(), n)[1]


def test_c4_cleans_lines_and_drops_what_is_left_of_too_little():
    text = GOOD[0] + "\nHome | About\nPlease enable Javascript in it.\nWe have a privacy policy."
    first, second, third = made(text, "One. Two words here.", GOOD[1] + " { x }")
    c4 = operator("c4")
    found = c4.decide([first, second, third], c4.score([first, second, third]))
    assert found[0].text == GOOD[0]
    assert found[0].edit == "3 lines removed"
    assert found[1].reason == "sentences 2 is below 5"
    assert found[2].reason.startswith("")
    assert reasons(c4, made(GOOD[1] + "\nA curly { bracket is in it."))[0].endswith("bracket")


def test_fineweb_names_the_rule():
    menu = "\n".join(["Home", "About us", "Contact", "Products."] * 10)
    unended = "\n".join(line.rstrip(".") for line in GOOD[0].splitlines())
    twice = GOOD[0] + "\n" + GOOD[0].splitlines()[0]
    found = reasons(operator("fineweb"), made(menu, unended, twice))
    assert found[0].startswith("short lines 1 is above")
    assert found[1] == "ended lines 0 is below 0.12"
    assert found[2].startswith("repeated")


@pytest.mark.parametrize(
    "name", ["gopher", "repetition", "fineweb", "c4", "minhash", "exact", "pii", "language"]
)
def test_scores_do_not_depend_on_the_batch(name):
    texts = [*GOOD, "x", "The same. " * 30, "# - ...\n\n" * 9, "中文的句子。" * 30]
    documents, found = made(*texts), operator(name)
    together = found.score(documents)
    for i, document in enumerate(documents):
        for score, values in found.score([document]).items():
            np.testing.assert_array_equal(values[0], together[score][i], err_msg=f"{score} {i}")


def test_languages_are_told_apart():
    texts = {
        "en": GOOD[0],
        "zh": "今天的天气很好，我们一起去公园散步，看到了很多美丽的花。" * 5,
        "code": "import os\n\n\ndef name(path):\n    return os.path.basename(path)\n" * 4,
        "de": "Der alte Mann ging langsam über die Straße und dachte an seine Kindheit. " * 4,
    }
    found = reasons(operator("language"), made(*texts.values()))
    assert found[:3] == ["", "", ""]
    assert found[3].startswith("language de: ")
    assert reasons(operator("language", keep=["de"]), made(*texts.values()))[3] == ""


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match=r"unknown setting operators\.gopher\.min_word"):
        operator("gopher", min_word=3)
    with pytest.raises(ConfigError, match=r"operators\.language\.keep names 'klingon'"):
        operator("language", keep=["klingon"])
    with pytest.raises(ConfigError, match="words, bands and rows"):
        operator("minhash", bands=0)
    with pytest.raises(ConfigError, match=r"quantiles 0\.9 and 0\.1"):
        operator("perplexity", below=0.9, above=0.1)
    with pytest.raises(ConfigError, match="unknown operator 'goper'") as caught:
        operator("goper")
    assert caught.value.hint == "did you mean gopher?"
