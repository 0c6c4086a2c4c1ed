"""Aggregation: RULER's `cwe` (common words of a numbered list) and `fwe` (frequent coded words)."""

import math
from random import Random
from string import ascii_lowercase

from deepseek.eval.ruler.filled import Filled, Recipe
from deepseek.eval.ruler.words import distinct_words

COMMON = (
    "Below is a numbered list of words. In these words, some appear more often than others."
    " Memorize the ones that appear most often.\n{context}\nQuestion: What are the 10 most common"
    " words in the above list? Answer: The top 10 words that appear most often in the list are:"
)
CODED = (
    "Read the following coded text and track the frequency of each coded word. Find the three most"
    " frequently appeared coded words. {context}\nQuestion: Do not provide any explanation. Please"
    " ignore the dots '....'. What are the three most frequently appeared words in the above coded"
    " text? Answer: According to the coded text above, the three most frequently appeared words"
    " are:"
)
N_COMMON = 10
SHORT = 4096
"""Below this length RULER repeats words less often."""
LETTERS = 6
ALPHA = 2.0
ZETA = math.pi**2 / 6
"""Riemann's zeta of ALPHA."""


def common_recipe(length: int) -> Recipe:
    """Common words at one length, after one solved example."""
    # Different words, and how often common and other words appear, in example and question.
    example, question = ((20, 3, 1), (6, 1)) if length < SHORT else ((40, 10, 3), (30, 3))

    def build(generator: Random, n_pieces: int) -> Filled:
        solved, found = _list(generator, *example)
        asked, outputs = _list(generator, n_pieces, *question)
        shown = " ".join(f"{i}. {word}" for i, word in enumerate(found, start=1))
        text = f"{COMMON.format(context=solved)} {shown}\n{COMMON.format(context=asked)}"
        return Filled(text, outputs)

    return Recipe(build=build, least=2 * N_COMMON, max_tokens=120)


def coded_recipe(length: int) -> Recipe:
    """Frequent coded words at one length; their frequencies follow Zipf's law."""
    max_tokens = 50
    n_words = max((length - max_tokens) // 50, 10)

    def build(generator: Random, n_pieces: int) -> Filled:
        words: dict[str, None] = {}
        while len(words) < n_words:
            words["".join(generator.choices(ascii_lowercase, k=LETTERS))] = None
        # The most frequent one is noise.
        ranked = ["...", *list(words)[1:]]
        text = [
            word
            for rank, word in enumerate(ranked, start=1)
            for _ in range(int(n_pieces * rank**-ALPHA / ZETA))
        ]
        generator.shuffle(text)
        return Filled(CODED.format(context=" ".join(text)), ranked[1:4])

    return Recipe(build=build, least=100, max_tokens=max_tokens)


def _list(generator: Random, n_words: int, common: int, others: int) -> tuple[str, list[str]]:
    """A numbered list, and its words that stand there `common` times."""
    words = distinct_words(generator, n_words)
    text = words[:N_COMMON] * common + words[N_COMMON:] * others
    generator.shuffle(text)
    return " ".join(f"{i}. {word}" for i, word in enumerate(text, start=1)), words[:N_COMMON]
