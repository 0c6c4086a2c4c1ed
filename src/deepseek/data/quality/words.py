"""The tokens of a batch of texts as arrays, so that operators count without loops over words.

Chunks and tokens get numbers as they appear; what is known of a token (length, kind, hash) stands
in tables, and a text's tokens are a gather from them. Numbers differ from run to run, what is
counted with them does not.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from jaxtyping import Int32, Int64, UInt8, UInt64

from deepseek.data.quality.tokens import folded, split_chunk

ALPHA, SYMBOL, STOP, END, PUNCTUATION = 1, 2, 4, 8, 16
"""Flags of a token: has a letter; all signs; a stop word; ends a sentence; all punctuation."""
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
SIGNS = frozenset(
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
) | frozenset(map(chr, (*range(9), *range(11, 32), *range(127, 160))))
ENDS = frozenset("!.?։؟۔܀܁܂‼‽⁇⁈⁉⸮﹖﹗！．？｡。।॥")
MAX_CHUNKS = 1 << 20
"""Different chunks in the tables; at more they begin anew with the next batch."""
MAX_KEPT = 16 << 20
"""Characters of texts whose tokens are kept for the next operator."""


@dataclass(frozen=True, slots=True)
class Words:
    """The tokens of a batch, text after text."""

    starts: Int64[np.ndarray, " n_plus_1"]
    """Where the tokens of each text begin, and where the last one's end."""
    ids: Int32[np.ndarray, " W"]
    """Equal for equal tokens of this batch."""
    lengths: Int32[np.ndarray, " W"]
    """Characters."""
    flags: UInt8[np.ndarray, " W"]
    hashes: UInt64[np.ndarray, " W"]
    """Of the folded token, the same in every run; 0 where nothing is left of it."""

    @property
    def counts(self) -> Int64[np.ndarray, " n"]:
        """Tokens of each text."""
        return np.diff(self.starts)

    def sums(self, values: np.ndarray) -> Int64[np.ndarray, " n"]:
        """The sum of a value of each token over each text."""
        total = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        found: Int64[np.ndarray, " n"] = total[self.starts[1:]] - total[self.starts[:-1]]
        return found


class _Column:
    """An array that grows."""

    def __init__(self, kind: type) -> None:
        self._data: np.ndarray = np.zeros(1 << 12, kind)
        self.size = 0

    def append(self, value: int) -> None:
        if self.size == len(self._data):
            self._data = np.concatenate([self._data, np.zeros_like(self._data)])
        self._data[self.size] = value
        self.size += 1

    @property
    def values(self) -> np.ndarray:
        return self._data[: self.size]


class _Tables(dict[str, int]):
    """Chunks and their numbers; a new chunk is cut and entered when it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[str, int] = {}
        self.first, self.length, self.tokens = (_Column(np.int64) for _ in range(3))
        self.token_length, self.flags = _Column(np.int32), _Column(np.uint8)
        self.hashes = _Column(np.uint64)

    def __missing__(self, chunk: str) -> int:
        tokens = split_chunk(chunk)
        self.first.append(self.tokens.size)
        self.length.append(len(tokens))
        for token in tokens:
            self.tokens.append(self._token(token))
        number = self[chunk] = len(self)
        return number

    def _token(self, token: str) -> int:
        if token not in self._numbers:
            self._numbers[token] = len(self._numbers)
            self.token_length.append(len(token))
            self.flags.append(_flags(token))
            self.hashes.append(_hash(token))
        return self._numbers[token]


_tables = _Tables()
_kept: dict[str, np.ndarray] = {}


def words_of(texts: Sequence[str]) -> Words:
    """The tokens of texts. Those of the last batches are kept: operators ask one by one."""
    global _tables
    if len(_tables) > MAX_CHUNKS:
        _tables = _Tables()
        _kept.clear()
    if sum(map(len, _kept)) > MAX_KEPT:
        _kept.clear()
    parts = [_kept[text] if text in _kept else _ids(text) for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
    ids = np.concatenate([np.zeros(0, np.int32), *parts])
    return Words(
        starts=starts.astype(np.int64),
        ids=ids,
        lengths=_tables.token_length.values[ids],
        flags=_tables.flags.values[ids],
        hashes=_tables.hashes.values[ids],
    )


def _ids(text: str) -> Int32[np.ndarray, " n"]:
    chunks = text.split()
    numbers = np.fromiter(map(_tables.__getitem__, chunks), np.int64, len(chunks))
    lengths = _tables.length.values[numbers]
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    # Token j of a text is the (j - beginning of its chunk)-th token of that chunk.
    places = np.arange(total) + np.repeat(_tables.first.values[numbers] - (ends - lengths), lengths)
    _kept[text] = _tables.tokens.values[places].astype(np.int32)
    return _kept[text]


def _flags(token: str) -> int:
    is_symbol = all(c in SIGNS for c in token)
    return (
        ALPHA * any(map(str.isalpha, token))
        | SYMBOL * is_symbol
        | STOP * (token in STOP_WORDS)
        | END * (token in ENDS)
        | PUNCTUATION * (is_symbol or not any(map(str.isalnum, token)))
    )


def _hash(token: str) -> int:
    plain = folded(token)
    if not plain:
        return 0
    data = plain.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little") | 1


class _Marks(dict[str, str]):
    """A letter for each token of a chunk: w a word, e what ends a sentence, p other punctuation."""

    def __missing__(self, chunk: str) -> str:
        if len(self) > MAX_CHUNKS:
            self.clear()
        kinds = map(_flags, split_chunk(chunk))
        marks = "".join("e" if k & END else "p" if k & PUNCTUATION else "w" for k in kinds)
        self[chunk] = marks
        return marks


_marks = _Marks()
_BREAK = re.compile("e[pe]*w")


def sentence_count(line: str) -> int:
    """Sentences of a line: a new one begins where a word follows a sign that ends one."""
    marks = "".join(map(_marks.__getitem__, line.split()))
    return len(_BREAK.findall(marks)) + bool(marks)
