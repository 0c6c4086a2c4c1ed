"""Gopher's repetition rules: paragraphs, lines and runs of words that come again.

A run of n words can only come again where the run of n - 1 words does. So all runs of two words
are sorted once, and each longer length looks at what is left: little in most texts.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from deepseek.data.quality.document import Document
from deepseek.data.quality.heuristics import Bound, BoundedOperator, stacked
from deepseek.data.quality.operator import Scores
from deepseek.data.quality.words import Words, words_of

TOP = (2, 3, 4)
REPEATED = (5, 6, 7, 8, 9, 10)
_PARAGRAPHS = re.compile(r"\n{2,}")
_LINES = re.compile(r"\n+")


@dataclass(frozen=True, slots=True)
class RepetitionSettings:
    """Largest shares; 0 switches a rule off. All but the first two are shares of characters."""

    paragraphs: float = 0.3
    lines: float = 0.3
    paragraph_characters: float = 0.2
    line_characters: float = 0.2
    top_2: float = 0.2
    """Of the most frequent run of two tokens."""
    top_3: float = 0.18
    top_4: float = 0.16
    repeated_5: float = 0.15
    """Of runs of five tokens that were there before."""
    repeated_6: float = 0.14
    repeated_7: float = 0.13
    repeated_8: float = 0.12
    repeated_9: float = 0.11
    repeated_10: float = 0.10


class Repetition(BoundedOperator):
    """What a text says more than once."""

    name = "repetition"
    Settings = RepetitionSettings
    bounds = tuple(
        Bound(name, name, "above")
        for name in (
            "paragraphs",
            "paragraph_characters",
            "lines",
            "line_characters",
            *(f"top_{n}" for n in TOP),
            *(f"repeated_{n}" for n in REPEATED),
        )
    )

    def score(self, batch: Sequence[Document]) -> Scores:
        """All shares of all documents."""
        texts = [document.text for document in batch]
        sizes = np.array([max(1, len(text)) for text in texts], dtype=np.float64)
        runs = run_characters(words_of(texts))
        return {
            **stacked([_piece_shares(text) for text in texts]),
            **{name: characters / sizes for name, characters in runs.items()},
        }


def _piece_shares(text: str) -> dict[str, float]:
    found = {}
    for name, pieces in (
        ("paragraph", _PARAGRAPHS.split(text.strip())),
        ("line", _LINES.split(text)),
    ):
        different = set(pieces)
        n_again = len(pieces) - len(different)
        characters = sum(map(len, pieces)) - sum(map(len, different)) if n_again else 0
        found[f"{name}s"] = n_again / len(pieces)
        found[f"{name}_characters"] = characters / max(1, len(text))
    return found


def run_characters(words: Words) -> dict[str, Int64[np.ndarray, " n"]]:
    """Characters of each text in its most frequent runs and in runs that were there before."""
    n_texts, n_words = len(words.counts), len(words.ids)
    document = np.repeat(np.arange(n_texts), words.counts)
    room = words.starts[document + 1] - np.arange(n_words)  # tokens from here to the text's end
    before = np.concatenate([[0], np.cumsum(words.lengths, dtype=np.int64)])
    # Runs of one token: their class is text and token. Classes of n come from those of n - 1.
    classes = document * (1 << 32) + words.ids
    places = np.arange(n_words)
    found = {}
    for n in range(2, REPEATED[-1] + 1):
        fits = room[places] >= n
        places = places[fits]
        last = words.ids[places + n - 1].astype(np.int64)
        classes, places, firsts, counts = _repeated(_joined(classes[fits], last), places)
        if n in TOP:
            top = _first_runs(words, n)
            for start, count in _most_frequent(document, firsts, counts):
                top[document[start]] = (before[start + n] - before[start] + n - 1) * count
            found[f"top_{n}"] = top
        elif n in REPEATED:
            found[f"repeated_{n}"] = _again(words, document, before, classes, places, n)
    return found


def _joined(classes: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Classes of runs with one token more; equal exactly if both parts are."""
    _, numbers = np.unique(classes, return_inverse=True)
    joined: np.ndarray = numbers.astype(np.int64) * (1 << 32) + last
    return joined


def _repeated(
    classes: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of the runs those that come more than once, and the first place and count of each class."""
    _, firsts, numbers, counts = np.unique(
        classes, return_index=True, return_inverse=True, return_counts=True
    )
    often = counts[numbers] > 1
    is_often = counts > 1
    return numbers[often], places[often], places[firsts[is_often]], counts[is_often]


def _first_runs(words: Words, n: int) -> Int64[np.ndarray, " n"]:
    """Characters of each text's first run: where none comes again, it is the most frequent."""
    characters = np.zeros(len(words.counts), np.int64)
    long = np.flatnonzero(words.counts >= n)
    for i in range(n):
        characters[long] += words.lengths[words.starts[long] + i]
    characters[long] += n - 1
    return characters


def _most_frequent(
    document: np.ndarray, firsts: np.ndarray, counts: np.ndarray
) -> Iterator[tuple[int, int]]:
    """First place and count of each text's most frequent run; of equals the one that is first."""
    order = np.lexsort((firsts, -counts, document[firsts]))
    firsts, counts = firsts[order], counts[order]
    _, heads = np.unique(document[firsts], return_index=True)
    return zip(firsts[heads].tolist(), counts[heads].tolist(), strict=True)


def _again(
    words: Words,
    document: np.ndarray,
    before: np.ndarray,
    classes: np.ndarray,
    places: np.ndarray,
    n: int,
) -> Int64[np.ndarray, " n"]:
    """Characters in runs that were there before, walked from left to right without overlap."""
    characters = np.zeros(len(words.counts), np.int64)
    seen: set[int] = set()
    free = 0  # the first place that no run before covers
    sizes = before[places + n] - before[places]
    rows = zip(
        places.tolist(), classes.tolist(), document[places].tolist(), sizes.tolist(), strict=True
    )
    for place, kind, number, size in rows:
        if place < free:
            continue
        if kind in seen:
            characters[number] += size
            free = place + n
        else:
            seen.add(kind)
    return characters
