"""Parses a GGUF header and trusts nothing in it.

Every count, length and offset is checked against the file's size before anything is
allocated for it, so that memory stays within a small multiple of the header's own size.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import itertools
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief  # a hostile value may be megabytes long
from typing import Any

from deepseek.core.errors import CheckpointError
from deepseek.weights.blocks import FORMATS, BlockFormat
from deepseek.weights.mapping import MappedFile

MAGIC = b"GGUF"
LENGTH = struct.Struct("<Q")
VERSIONS = (2, 3)
MAX_TENSORS = 100_000
MAX_PAIRS = 100_000
MAX_KEY_BYTES = 65_535
MAX_STRING_BYTES = 64 << 20
MAX_ITEMS = 20_000_000  # of all arrays together: each becomes a Python object
MAX_HEADER_BYTES = 256 << 20
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
MAX_MESSAGE = 400
STRING, ARRAY = 8, 9
# Value type id -> struct code.
SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
BOOL = 7


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor's bytes are and how to read them."""

    name: str
    shape: tuple[int, ...]
    """Row-major: the last axis is contiguous."""
    format: BlockFormat
    start: int
    """Absolute position in the file."""
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata and tensor directory of one file."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_header(file: MappedFile) -> Header:
    """Parse and check the whole header.

    Raises:
        CheckpointError: Anything is out of bounds, inconsistent or of an unknown kind.
    """
    cursor = _Cursor(file)
    if cursor.take(4) != MAGIC:
        raise damaged(file.path, "it does not begin with GGUF")
    version = cursor.scalar("I")
    if version not in VERSIONS:
        raise damaged(file.path, f"it has GGUF version {version}; supported are 2 and 3")
    n_tensors, n_pairs = cursor.scalar("Q"), cursor.scalar("Q")
    if n_tensors > MAX_TENSORS or n_pairs > MAX_PAIRS:
        raise damaged(file.path, f"it claims {n_tensors} tensors and {n_pairs} metadata entries")
    metadata: dict[str, Any] = {}
    for _ in range(n_pairs):
        key = cursor.string(MAX_KEY_BYTES)
        if not key or key in metadata:
            raise damaged(file.path, f"metadata key {key!r} is empty or appears twice")
        metadata[key] = cursor.value(cursor.scalar("I"))
    alignment = metadata.get("general.alignment", 32)
    if not (
        isinstance(alignment, int)
        and 8 <= alignment <= MAX_ALIGNMENT
        and not isinstance(alignment, bool)
    ) or alignment & (alignment - 1):
        raise damaged(file.path, f"its alignment is {brief(alignment)}, not a power of two from 8")
    entries = [_entry(cursor) for _ in range(n_tensors)]
    data_start = -(-cursor.position // alignment) * alignment
    tensors = _directory(file, entries, data_start, alignment)
    return Header(metadata, tensors)


def damaged(path: Path, why: str) -> CheckpointError:
    """The error for a file that must not be used."""
    what = why if len(why) <= MAX_MESSAGE else f"{why[:MAX_MESSAGE]}…"
    return CheckpointError(f"{path} is damaged or not supported: {what}", "fetch the file again")


class _Cursor:
    """Reads forward and never past the end."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.position = 0
        self.n_items = 0

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > self.file.size - self.position:
            raise damaged(self.file.path, f"it ends inside the header at byte {self.position}")
        if self.position + n_bytes > MAX_HEADER_BYTES:
            raise damaged(self.file.path, "its header is larger than any model needs")
        data = self.file.read(self.position, n_bytes)
        self.position += n_bytes
        return data

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def string(self, limit: int = MAX_STRING_BYTES) -> str:
        length = self.scalar("Q")
        if length > limit:
            raise damaged(self.file.path, f"a string claims {length} bytes")
        data = self.take(length)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise damaged(self.file.path, "a string is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self._array()
        if kind not in SCALARS:
            raise damaged(self.file.path, f"a metadata value has the unknown type {kind}")
        value = self.scalar(SCALARS[kind])
        if kind == BOOL:
            if value > 1:
                raise damaged(self.file.path, f"a boolean is {value}")
            return bool(value)
        return value

    def _array(self) -> list[Any]:
        kind, count = self.scalar("I"), self.scalar("Q")
        size = 8 if kind == STRING else struct.calcsize(SCALARS.get(kind, "Q"))
        if kind not in SCALARS and kind != STRING:
            raise damaged(self.file.path, f"an array has items of type {kind}")
        self.n_items += count
        if self.n_items > MAX_ITEMS or count * size > self.file.size - self.position:
            raise damaged(self.file.path, f"an array claims {count} items")
        if kind == STRING:
            return self._strings(count)
        values = list(struct.unpack(f"<{count}{SCALARS[kind]}", self.take(count * size)))
        return [bool(v) for v in values] if kind == BOOL else values

    def _strings(self, count: int) -> list[str]:
        """As `string`, in a tight loop: vocabularies have hundreds of thousands."""
        data, position = self.file.buffer, self.position
        end = min(self.file.size, MAX_HEADER_BYTES)
        strings = []
        for _ in range(count):
            length = LENGTH.unpack_from(data, position)[0] if position + 8 <= end else end
            position += 8
            if length > end - position or length > MAX_STRING_BYTES:
                raise damaged(self.file.path, "a string of a list reaches past the end")
            try:
                strings.append(data[position : position + length].decode("utf-8"))
            except UnicodeDecodeError:
                raise damaged(self.file.path, "a string is not UTF-8") from None
            position += length
        self.position = position
        return strings


_Entry = tuple[str, tuple[int, ...], BlockFormat, int]


def _entry(cursor: _Cursor) -> _Entry:
    path = cursor.file.path
    name = cursor.string(MAX_KEY_BYTES)
    n_dimensions = cursor.scalar("I")
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise damaged(path, f"tensor {name!r} has {n_dimensions} dimensions")
    dimensions = [cursor.scalar("Q") for _ in range(n_dimensions)]
    kind, offset = cursor.scalar("I"), cursor.scalar("Q")
    if kind not in FORMATS:
        known = ", ".join(f.name for f in FORMATS.values())
        raise CheckpointError(
            f"tensor {name!r} in {path} has the unsupported type {kind}",
            f"supported: {known}; choose a file in one of these formats",
        )
    if any(not 1 <= d < 1 << 40 for d in dimensions):
        raise damaged(path, f"tensor {name!r} has the shape {dimensions}")
    return name, tuple(reversed(dimensions)), FORMATS[kind], offset


def _directory(
    file: MappedFile, entries: list[_Entry], data_start: int, alignment: int
) -> dict[str, TensorInfo]:
    """Check sizes, bounds, alignment and overlaps of all tensors."""
    tensors: dict[str, TensorInfo] = {}
    for name, shape, form, offset in entries:
        n_weights = math.prod(shape)
        if shape[-1] % form.n_weights:
            raise damaged(file.path, f"rows of {name!r} do not fill {form.name} blocks")
        n_bytes = n_weights // form.n_weights * form.n_bytes
        if offset % alignment:
            raise damaged(file.path, f"tensor {name!r} is not aligned")
        if data_start + offset + n_bytes > file.size:
            raise damaged(file.path, f"tensor {name!r} reaches past the end: it is truncated")
        if name in tensors:
            raise damaged(file.path, f"tensor {name!r} appears twice")
        tensors[name] = TensorInfo(name, shape, form, data_start + offset, n_bytes)
    check_overlaps(file.path, [(t.name, t.start, t.start + t.n_bytes) for t in tensors.values()])
    return tensors


def check_overlaps(
    path: Path,
    ranges: list[tuple[str, int, int]],
    error: Callable[[Path, str], CheckpointError] = damaged,
) -> None:
    """Refuse two tensors that share bytes."""
    ordered = sorted(ranges, key=lambda r: r[1])
    for (name, _, end), (other, start, _) in itertools.pairwise(ordered):
        if start < end:
            raise error(path, f"tensors {name!r} and {other!r} overlap")
