"""Documents of a source as token ids in one memory-mapped file with a checksum.

The file is a safetensors file: tokens of all documents behind each other, where each ends, its
bytes of text, and how difficult it is. Its name is a digest of everything it was made from.
Tokens that are read and not learned (a question, in front of its answer) are kept as `-1 - id`.
"""

import json
import os
import struct
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64

from deepseek.core.errors import CheckpointError
from deepseek.weights.cache import replaced
from deepseek.weights.mapping import MappedFile
from deepseek.weights.safetensors import read_entries

CHECKSUM = "checksum"
DIGEST = 16
"""Bytes of the checksum."""
IGNORED = -100
"""A label that nothing is learned from."""
_PIECE = 1 << 22


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """Token ids of one document with its beginning and end, and what is known of its text."""

    ids: list[int]
    """`-1 - id` for those that are not learned."""
    n_bytes: int
    """Of the text that is learned."""
    difficulty: float


@dataclass(frozen=True, slots=True)
class TokenFile:
    """Documents as token ids; the arrays are views of the file."""

    path: Path
    checksum: str
    """Of all arrays, hexadecimal."""
    tokens: Int32[np.ndarray, " T"]
    ends: Int64[np.ndarray, " D"]
    """Where the tokens of each document end."""
    n_bytes: Int64[np.ndarray, " D"]
    difficulty: Float32[np.ndarray, " D"]

    @property
    def n_documents(self) -> int:
        """How many there are."""
        return len(self.ends)

    @property
    def n_tokens(self) -> int:
        """Of all documents."""
        return len(self.tokens)

    def span(self, number: int) -> tuple[int, int]:
        """Where the tokens of a document begin and end."""
        return int(self.ends[number - 1]) if number else 0, int(self.ends[number])

    def piece(
        self, number: int, offset: int, most: int
    ) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Some tokens of a document from an offset on, and what follows each of them.

        What follows is `IGNORED` after the last token, and where it is not learned.
        """
        start, end = self.span(number)
        begin = start + offset
        stop = min(end, begin + most)
        raw = self.tokens[begin : min(end, stop + 1)].astype(np.int64)
        ids = raw[: stop - begin]
        labels = np.full_like(ids, IGNORED)
        labels[: len(raw) - 1] = np.where(raw[1:] < 0, IGNORED, raw[1:])
        return np.where(ids < 0, -1 - ids, ids), labels

    @classmethod
    def open(cls, path: Path) -> "TokenFile":
        """Map a file and compare its checksum.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        entries = read_entries(MappedFile(path))
        try:
            arrays = [entries[name].view().numpy() for name in _ARRAYS]
            wanted = bytes(entries[CHECKSUM].view()).hex()
        except (KeyError, TypeError):
            raise _damaged(path) from None
        checksum = _checksum(arrays)
        ends, n_bytes, difficulty, tokens = arrays
        kinds = tuple(str(array.dtype) for array in arrays)
        n = len(ends)
        fits = kinds == tuple(_ARRAYS.values()) and len(n_bytes) == len(difficulty) == n
        if wanted != checksum or not fits or (ends[-1:] != len(tokens)).any():
            raise _damaged(path)
        return cls(path, checksum, tokens, ends, n_bytes, difficulty)


_ARRAYS = {"ends": "int64", "n_bytes": "int64", "difficulty": "float32", "tokens": "int32"}
_TYPES = {"int32": "I32", "int64": "I64", "float32": "F32", "uint8": "U8"}


def write_token_file(path: Path, documents: Iterable[EncodedDocument]) -> TokenFile:
    """Write documents, whole or not at all, and open the file. Memory holds one at a time.

    Raises:
        CheckpointError: The file cannot be written.
    """
    ends, sizes, difficulties = [], [], []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as spool:
            total = 0
            for document in documents:
                spool.write(np.array(document.ids, dtype="<i4").tobytes())
                total += len(document.ids)
                ends.append(total)
                sizes.append(document.n_bytes)
                difficulties.append(document.difficulty)
            rest = [
                np.array(ends, dtype="<i8"),
                np.array(sizes, dtype="<i8"),
                np.array(difficulties, dtype="<f4"),
            ]
            digest = blake2b(digest_size=DIGEST)
            for array in rest:
                digest.update(array.tobytes())
            spool.seek(0)
            with replaced(path) as file:
                file.write(_header(total, len(ends)))
                for array in rest:
                    file.write(array.tobytes())
                while piece := spool.read(_PIECE):
                    digest.update(piece)
                    file.write(piece)
                file.write(digest.digest())
        os.chmod(path, 0o644)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror}", "free some space or choose another place"
        ) from None
    return TokenFile.open(path)


def _header(n_tokens: int, n_documents: int) -> bytes:
    kinds = {**_ARRAYS, CHECKSUM: "uint8"}
    table, start = {}, 0
    for name, kind in kinds.items():
        length = {"tokens": n_tokens, CHECKSUM: DIGEST}.get(name, n_documents)
        end = start + length * np.dtype(kind).itemsize
        table[name] = {"dtype": _TYPES[kind], "shape": [length], "data_offsets": [start, end]}
        start = end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _checksum(arrays: list[np.ndarray[Any, np.dtype[Any]]]) -> str:
    digest = blake2b(digest_size=DIGEST)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is damaged", "remove it: it is made anew from the texts")
