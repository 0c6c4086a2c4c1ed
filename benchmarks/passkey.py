"""Prompts that hide one number in repeated filler, as in Landmark attention and InfiniteBench."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

HEAD = (
    "There is an important info hidden inside a lot of irrelevant text. "
    "Find it and memorize it. I will quiz you about the important information there. "
)
FILLER = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
)
QUESTION = "What is the pass key? The pass key is"
ROOM = 8
"""Tokens of an answer."""


@dataclass(frozen=True, slots=True)
class Passkey:
    """One prompt and what it hides."""

    prompt: str
    key: str
    depth: float
    """Where it is hidden, from 0 to 1."""

    def is_found(self, answer: str) -> bool:
        """Whether the first number of an answer is the key."""
        found = re.search(r"\d+", answer)
        return found is not None and found[0] == self.key


def passkeys(
    n_tokens: int, n_depths: int, count: Callable[[str], int], seed: int = 0
) -> Iterator[Passkey]:
    """Prompts of about that many tokens, the shallowest depth first.

    Args:
        n_tokens: Of each prompt, at most.
        n_depths: How many prompts, at evenly spaced depths.
        count: Tokens of a text.
        seed: Of the keys.
    """
    generator = random.Random(seed)
    for i in range(n_depths):
        yield passkey_at(
            n_tokens, (i + 0.5) / n_depths, count, str(generator.randint(10_000, 99_999))
        )


def passkey_at(
    n_tokens: int, depth: float, count: Callable[[str], int], key: str = "60494"
) -> Passkey:
    """A prompt of at most that many tokens with its key at a depth from 0 to 1."""
    per_filler = count(FILLER * 11) - count(FILLER * 10)
    n_fillers = (n_tokens - count(HEAD + QUESTION) - 40) // per_filler
    before = round(n_fillers * depth)
    hidden = f"The pass key is {key}. Remember it. {key} is the pass key. "
    after = FILLER * (n_fillers - before)
    return Passkey(HEAD + FILLER * before + hidden + after + QUESTION, key, depth)
