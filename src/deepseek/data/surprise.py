"""How surprised a language model is by texts: bits per byte, which no tokenizer flatters."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float64

from deepseek.core.llm import BatchLanguageModel, LanguageModel, Score, ScoreRequest

CHARACTERS = 4_000
"""Of a text that are read: what it is shows at its beginning."""


def bits_per_byte(
    model: LanguageModel, texts: Sequence[str], characters: int = CHARACTERS
) -> Float64[np.ndarray, " n"]:
    """Bits that the model needs for a byte of each text's beginning; NaN for a blank text.

    Args:
        model: Reads each text by itself, after nothing.
        texts: Whose other parts do not count.
        characters: Of each text; fewer where these do not fit the context window.
    """
    found = np.full(len(texts), np.nan)
    places = [i for i, text in enumerate(texts) if text.strip()]
    heads = [_head(model, texts[i], characters) for i in places]
    for i, head, (score,) in zip(places, heads, _scores(model, heads), strict=True):
        found[i] = -score.logprob / math.log(2) / len(head.encode("utf-8", "replace"))
    return found


def _head(model: LanguageModel, text: str, characters: int) -> str:
    """The beginning of a text that fits the context window with the token before it."""
    head = text[:characters]
    while len(head) > 1 and model.count_tokens(head) >= model.context_window:
        head = head[: len(head) // 2]
    return head


def _scores(model: LanguageModel, texts: Sequence[str]) -> Iterable[list[Score]]:
    if not texts:
        return []
    if isinstance(model, BatchLanguageModel):
        return model.score_many([ScoreRequest("", (text,)) for text in texts])
    return [model.score("", [text]) for text in texts]
