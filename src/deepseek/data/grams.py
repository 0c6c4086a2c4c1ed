"""Texts as 64-bit hashes of their runs of n tokens, the same on every machine and in every run.

A token is a word without case, accents composed (NFKC), apostrophes dropped; everything else
that is no letter or digit only separates. Scripts written without spaces go by character.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from hashlib import blake2b

import numpy as np
from jaxtyping import Int, UInt64

GRAM = 13
"""Tokens of a gram."""
SHORTEST = 8
"""Tokens of the shortest item that is a gram in all."""
Hashes = UInt64[np.ndarray, " _"]

# Thai and Lao, Myanmar, Khmer, kana, Han with its extensions.
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_LETTER = rf"[^\W_{_SPACELESS}]"
_TOKEN = re.compile(rf"{_LETTER}+(?:['’]{_LETTER}+)*|(?=\w)[{_SPACELESS}]")
_APOSTROPHES = str.maketrans("", "", "'’")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplication loses nothing
_SHIFT = np.uint64(32)
MAX_CACHED = 1 << 20
MAX_CACHED_LENGTH = 40


class _TokenHashes(dict[str, int]):
    """Hash of each token, kept for the frequent ones: text repeats its words."""

    def __missing__(self, token: str) -> int:
        plain = token.translate(_APOSTROPHES).encode("utf-8", "surrogatepass")
        value = int.from_bytes(blake2b(plain, digest_size=8).digest(), "little")
        value = value >> 1 << 1 | _is_word(token)
        if len(token) <= MAX_CACHED_LENGTH:
            if len(self) >= MAX_CACHED:
                self.clear()
            self[token] = value
        return value


_HASHES = _TokenHashes()


def token_hashes(text: str) -> Hashes:
    """The hash of each token of a text; it is odd where the token is a word, no number."""
    tokens = _TOKEN.findall(_folded(text))
    return np.fromiter(map(_HASHES.__getitem__, tokens), dtype=np.uint64, count=len(tokens))


def token_places(text: str) -> Int[np.ndarray, "n 2"]:
    """Where each token of `token_hashes` begins and ends in the text."""
    if text.isascii():
        spans = [match.span() for match in _TOKEN.finditer(text)]
        return np.array(spans, dtype=np.int64).reshape(-1, 2)
    starts: list[int] = []
    ends: list[int] = []
    pieces = []
    for start, end in _clusters(text):
        piece = _folded(text[start:end])
        pieces.append(piece)
        starts += [start] * len(piece)
        ends += [end] * len(piece)
    spans = [match.span() for match in _TOKEN.finditer("".join(pieces))]
    places = [(starts[first], ends[last - 1]) for first, last in spans]
    return np.array(places, dtype=np.int64).reshape(-1, 2)


def gram_hashes(tokens: Hashes, lengths: Iterable[int]) -> Iterator[tuple[int, Hashes]]:
    """The hash of each run of so many tokens, from the shortest length to the longest.

    A run's hash goes on from that of the run one token shorter. Each step loses nothing of
    either side, so runs that differ in one token never meet unless its hashes do; other runs
    meet like random numbers of 64 bits.
    """
    wanted = sorted(set(lengths))
    state = np.zeros(len(tokens) + 1, dtype=np.uint64)
    for length in range(1, wanted[-1] + 1):
        if length > len(tokens):
            return
        state = state[:-1] ^ tokens[length - 1 :]
        state *= _MULTIPLIER
        state ^= state >> _SHIFT
        if length in wanted:
            yield length, state


def count_words(tokens: Hashes, length: int) -> Int[np.ndarray, " m"]:
    """How many different words are in each run of so many tokens."""
    words = np.where(tokens & np.uint64(1), tokens, np.uint64(0))
    runs = np.sort(np.lib.stride_tricks.sliding_window_view(words, length), axis=1)
    counts: Int[np.ndarray, " m"] = (runs[:, 1:] != runs[:, :-1]).sum(axis=1) + (runs[:, 0] > 0)
    return counts


def _is_word(token: str) -> bool:
    """Whether a token says more than a number or the name of a variable: `a`, `b`, `c`."""
    return any(map(str.isalpha, token)) and (len(token) > 1 or not token.isascii())


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _clusters(text: str) -> Iterator[tuple[int, int]]:
    """Spans of characters that normalise by themselves: a letter with its marks."""
    start = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or not _joins(text[place]):
            yield start, place
            start = place


def _joins(character: str) -> bool:
    """Whether a character can compose with the one before it: marks, and parts of Hangul."""
    if character.isascii():
        return False
    # Halfwidth kana have voicing marks that count as letters until they are normalised.
    plain = unicodedata.normalize("NFKC", character)[0]
    return unicodedata.category(plain)[0] == "M" or "\u1160" <= plain <= "\u11ff"
