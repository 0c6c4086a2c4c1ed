"""Answers grouped by what they say: by a key, by a comparison, or by vectors."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from deepseek.core.llm import EmbeddingModel

Clusters = list[int]
"""The cluster of each answer: numbers from 0 in order of appearance."""
COSINE = 0.95
"""Vectors at least as close say the same; of the mean over both clusters' pairs."""


def by_key(keys: Sequence[str | None]) -> Clusters:
    """Answers with the same key are alike; one without a key is like no other."""
    numbers: dict[object, int] = {}
    marks = [object() if key is None else key for key in keys]
    return [numbers.setdefault(mark, len(numbers)) for mark in marks]


def by_comparison(texts: Sequence[str], same: Callable[[str, str], bool]) -> Clusters:
    """Each answer joins the first cluster whose first answer says the same, or opens one."""
    firsts: list[str] = []
    clusters = []
    for text in texts:
        place = next((i for i, first in enumerate(firsts) if same(first, text)), len(firsts))
        if place == len(firsts):
            firsts.append(text)
        clusters.append(place)
    return clusters


def by_vectors(texts: Sequence[str], model: EmbeddingModel, cosine: float = COSINE) -> Clusters:
    """Clusters by average linkage: the two closest are joined while they are close enough.

    Empty texts have no vector, and are alike.

    Raises:
        RequestError: A text does not fit the model.
    """
    different = list(dict.fromkeys(text.strip() for text in texts))
    filled = [text for text in different if text]
    numbers = linked(np.asarray(model.embed(filled)), cosine) if filled else []
    of_text = dict(zip(filled, numbers, strict=True))
    return by_key([str(of_text.get(text.strip(), "")) for text in texts])


def linked(vectors: Float[np.ndarray, "n d"], cosine: float) -> Clusters:
    """Average linkage of vectors of length 1, down to a mean cosine between clusters."""
    close = vectors @ vectors.T
    groups = [[i] for i in range(len(vectors))]
    while len(groups) > 1:
        pairs = [
            (float(close[np.ix_(groups[i], groups[j])].mean()), -i, -j)
            for i in range(len(groups))
            for j in range(i + 1, len(groups))
        ]
        best, i, j = max(pairs)  # the first pair of equally close ones
        if best < cosine:
            break
        groups[-i] += groups.pop(-j)
    places = {member: number for number, group in enumerate(groups) for member in group}
    return by_key([str(places[i]) for i in range(len(vectors))])
