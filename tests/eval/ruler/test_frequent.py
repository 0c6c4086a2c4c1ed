"""Common and frequent words: the counts are what the question says."""

import re
from collections import Counter
from random import Random

import pytest

from deepseek.eval.ruler.frequent import coded_recipe, common_recipe
from deepseek.eval.ruler.words import distinct_words, word_lists

HEAD = (
    "Below is a numbered list of words. In these words, some appear more often than others."
    " Memorize the ones that appear most often.\n"
)
TAIL = (
    "\nQuestion: What are the 10 most common words in the above list? Answer: The top 10 words that"
    " appear most often in the list are:"
)


def listed(text: str) -> list[str]:
    """The words of a numbered list, whose numbers must count up."""
    words = re.split(r"(?:^| )(\d+)\. ", text)
    assert [int(number) for number in words[1::2]] == list(range(1, len(words) // 2 + 1))
    return words[2::2]


@pytest.mark.parametrize(
    ("length", "example", "question"), [(4_095, (3, 1), (6, 1)), (4_096, (10, 3), (30, 3))]
)
def test_common_words(length: int, example: tuple[int, int], question: tuple[int, int]) -> None:
    recipe = common_recipe(length)
    filled = recipe.build(Random("s"), 50)
    _, solved, asked = filled.text.split(HEAD)
    first, _, answer = solved.partition(TAIL)
    assert asked.endswith(TAIL)
    second = asked.removesuffix(TAIL)
    found = listed(answer.removesuffix("\n").removeprefix(" "))
    for text, common, (often, seldom) in (
        (first, found, example),
        (second, filled.outputs, question),
    ):
        counts = Counter(listed(text))
        assert {word for word, n in counts.items() if n == often} == set(common)
        assert {n for word, n in counts.items() if word not in common} == {seldom}
        assert len(common) == 10
    assert len(Counter(listed(second))) == 50
    assert (recipe.least, recipe.max_tokens, recipe.match) == (20, 120, "all")


def test_common_words_in_full() -> None:
    filled = common_recipe(1_000).build(Random("s"), 20)
    assert filled.outputs[:3] == ["surface", "sorrow", "proliferation"]
    assert filled.text.startswith(
        f"{HEAD}1. sampan 2. locomotive 3. ratty 4. industrialisation 5. cat 6. jittery"
    )
    assert f"{TAIL} 1. jittery 2. industrialisation 3. ratty 4. fencing" in filled.text


def test_coded_words() -> None:
    recipe = coded_recipe(4_096)
    filled = recipe.build(Random(1), 1_000)
    head, tail = (
        "Read the following coded text and track the frequency of each coded word. Find the three"
        " most frequently appeared coded words. ",
        "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the"
        " three most frequently appeared words in the above coded text? Answer: According to the"
        " coded text above, the three most frequently appeared words are:",
    )
    assert filled.text.startswith(head)
    assert filled.text.endswith(tail)
    counts = Counter(filled.text.removeprefix(head).removesuffix(tail).split(" "))
    # 1,000 divided by zeta(2) and by the rank's square, without the rest.
    assert [n for _, n in counts.most_common(5)] == [607, 151, 67, 37, 24]
    assert [word for word, _ in counts.most_common(4)] == ["...", *filled.outputs]
    assert all(re.fullmatch("[a-z]{6}", word) for word in counts if word != "...")
    assert (recipe.least, recipe.max_tokens, recipe.match) == (100, 50, "all")


def test_the_shortest_coded_text_has_an_answer() -> None:
    for seed in range(20):
        filled = coded_recipe(200).build(Random(seed), 100)
        counts = Counter(filled.text.split()).most_common()
        ranked = [word for word, _ in counts if word in filled.outputs]
        assert ranked == filled.outputs


def test_more_words_than_the_lists_have() -> None:
    n_words = sum(len(words) for words in word_lists()) + 1_000
    words = distinct_words(Random(0), n_words)
    assert len(words) == len(set(words)) == n_words
    assert words == distinct_words(Random(0), n_words)
