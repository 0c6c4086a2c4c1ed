"""Random words, numbers and UUIDs as RULER draws them: its words are those of wonderwords."""

import uuid
from collections.abc import Sequence
from functools import cache
from random import Random

from deepseek.core.errors import MissingDependencyError


def random_key(generator: Random, kind: str) -> str:
    """A key or value of a needle.

    Args:
        generator: Where the randomness comes from.
        kind: `words`, `numbers` or `uuids`.
    """
    if kind == "words":
        adjectives, nouns, _ = word_lists()
        return f"{generator.choice(adjectives)}-{generator.choice(nouns)}"
    if kind == "numbers":
        return str(generator.randint(10**6, 10**7 - 1))
    assert kind == "uuids"
    return random_uuid(generator)


def random_uuid(generator: Random) -> str:
    """A UUID of version 4."""
    return str(uuid.UUID(int=generator.getrandbits(128), version=4))


def distinct_words(generator: Random, n_words: int) -> list[str]:
    """Different words in random order.

    For more words than wonderwords has, RULER turns to a list that cannot be had everywhere;
    pairs of an adjective and a noun take its place.
    """
    adjectives, nouns, _ = word_lists()
    words = _all_words()
    if n_words <= len(words):
        return generator.sample(words, n_words)
    pairs = generator.sample(range(len(adjectives) * len(nouns)), n_words - len(words))
    mixed = [f"{adjectives[i // len(nouns)]}-{nouns[i % len(nouns)]}" for i in pairs]
    return generator.sample([*words, *mixed], n_words)


@cache
def word_lists() -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """Adjectives, nouns and verbs.

    Raises:
        MissingDependencyError: wonderwords is not installed.
    """
    try:
        from wonderwords import Defaults, RandomWord
    except ImportError:
        raise MissingDependencyError(
            "RULER's words come from wonderwords", "install it with: pip install 'deepseek[eval]'"
        ) from None
    adjectives, nouns, verbs = (
        # Its own index of beginnings and endings would take longer to build than all else.
        tuple(sorted(set(RandomWord(enhanced_prefixes=False, words=kind).filter())))
        for kind in (Defaults.ADJECTIVES, Defaults.NOUNS, Defaults.VERBS)
    )
    return adjectives, nouns, verbs


@cache
def _all_words() -> Sequence[str]:
    return sorted({word for words in word_lists() for word in words})
