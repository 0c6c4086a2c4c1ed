"""Gopher's quality rules (arXiv 2112.11446, table A1) with the thresholds in common use."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepseek.data.quality.document import Document
from deepseek.data.quality.heuristics import Bound, BoundedOperator
from deepseek.data.quality.operator import Scores
from deepseek.data.quality.words import ALPHA, STOP, STOP_WORDS, SYMBOL, Words, words_of


@dataclass(frozen=True, slots=True)
class GopherSettings:
    """Thresholds; 0 switches a rule off."""

    min_words: int = 50
    max_words: int = 100_000
    min_word_length: float = 3.0
    max_word_length: float = 10.0
    max_hashes: float = 0.1
    """`#` by token."""
    max_ellipses: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_alpha_words: float = 0.8
    min_stop_words: int = 2
    """Different ones."""


class Gopher(BoundedOperator):
    """Length, lengths of words, signs, lists, letters, stop words."""

    name = "gopher"
    Settings = GopherSettings
    bounds = (
        Bound("words", "min_words", "below"),
        Bound("words", "max_words", "above"),
        Bound("word_length", "min_word_length", "below"),
        Bound("word_length", "max_word_length", "above"),
        Bound("hashes", "max_hashes", "above"),
        Bound("ellipses", "max_ellipses", "above"),
        Bound("bullet_lines", "max_bullet_lines", "above"),
        Bound("ellipsis_lines", "max_ellipsis_lines", "above"),
        Bound("alpha_words", "min_alpha_words", "below"),
        Bound("stop_words", "min_stop_words", "below"),
    )

    def score(self, batch: Sequence[Document]) -> Scores:
        """Shares are of tokens or lines."""
        texts = [document.text for document in batch]
        words = words_of(texts)
        is_word = (words.flags & SYMBOL) == 0
        n_words = words.sums(is_word).astype(np.float64)
        lines = np.array([_line_shares(text) for text in texts], dtype=np.float64)
        hashes = np.array([text.count("#") for text in texts])
        dots = np.array([text.count("...") + text.count("…") for text in texts])
        with np.errstate(divide="ignore", invalid="ignore"):  # no tokens: NaN, and too short anyway
            return {
                "words": n_words,
                "word_length": words.sums(np.where(is_word, words.lengths, 0)) / n_words,
                "hashes": hashes / words.counts,
                "ellipses": dots / words.counts,
                "bullet_lines": lines[:, 0],
                "ellipsis_lines": lines[:, 1],
                "alpha_words": words.sums((words.flags & ALPHA) > 0) / words.counts,
                "stop_words": _different_stop_words(words),
            }


def _line_shares(text: str) -> tuple[float, float]:
    """The shares of lines that begin with a bullet and that end with an ellipsis."""
    lines = text.splitlines()
    if not lines:
        return 0.0, 0.0
    n_bullets = n_ellipses = 0
    if "-" in text or "•" in text:
        n_bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
    if "..." in text or "…" in text:
        n_ellipses = sum(line.rstrip().endswith(("...", "…")) for line in lines)
    return n_bullets / len(lines), n_ellipses / len(lines)


def _different_stop_words(words: Words) -> np.ndarray:
    places = np.flatnonzero(words.flags & STOP)
    document = np.searchsorted(words.starts, places, side="right") - 1
    pairs = np.unique(document * (1 << 32) + words.ids[places])
    counts: np.ndarray = np.bincount(pairs >> 32, minlength=len(words.counts)).astype(np.float64)
    assert len(STOP_WORDS) < 1 << 32
    return counts
