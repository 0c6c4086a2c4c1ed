"""Writes GGUF files for the tests and remembers where every field of the header is.

Independent of the package's reader: it follows the format's description, and a test can lie in
any field by patching the bytes at its place.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 5, 6, 7, 8, 9, 10
CODES = {UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "B", UINT64: "Q"}
# Type id -> weights and bytes of a block.
BLOCKS = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q6_K": (14, 256, 210),
    "BF16": (30, 1, 2),
}


@dataclass(frozen=True)
class Place:
    """A number in the header: what it means, where it is and how it is packed."""

    kind: str
    start: int
    code: str


@dataclass
class GGUFImage:
    """The bytes of a file and the places of its header's numbers."""

    data: bytearray = field(default_factory=bytearray)
    places: list[Place] = field(default_factory=list)
    strings: list[tuple[str, int]] = field(default_factory=list)
    """Each string with the position of its first byte."""
    data_start: int = 0

    def number(self, kind: str, code: str, value: float) -> None:
        self.places.append(Place(kind, len(self.data), code))
        self.data += struct.pack(f"<{code}", value)

    def string(self, kind: str, text: str) -> None:
        raw = text.encode()
        self.number(f"{kind} length", "Q", len(raw))
        self.strings.append((text, len(self.data)))
        self.data += raw

    def place(self, kind: str, nth: int = 0) -> Place:
        return [p for p in self.places if p.kind == kind][nth]

    def patched(self, kind: str, value: float, nth: int = 0) -> bytes:
        """A copy in which one number of the header says something else."""
        place = self.place(kind, nth)
        copy = bytearray(self.data)
        struct.pack_into(f"<{place.code}", copy, place.start, value)
        return bytes(copy)

    def renamed(self, old: str, new: str) -> bytes:
        """A copy in which a string of the header is another one of the same length."""
        assert len(old) == len(new)
        start = next(start for text, start in self.strings if text == old)
        copy = bytearray(self.data)
        copy[start : start + len(old)] = new.encode()
        return bytes(copy)


@dataclass(frozen=True)
class RawTensor:
    """A tensor as it is stored. Shapes are row-major, as torch has them."""

    name: str
    shape: tuple[int, ...]
    format: str
    data: bytes


def write_gguf(
    metadata: dict[str, Any], tensors: Sequence[RawTensor], *, alignment: int = 32, version: int = 3
) -> GGUFImage:
    """Lay a whole file out in memory."""
    image = GGUFImage()
    image.data += b"GGUF"
    image.number("version", "I", version)
    image.number("tensor count", "Q", len(tensors))
    image.number("pair count", "Q", len(metadata))
    for key, value in metadata.items():
        image.string("key", key)
        _write_value(image, value)
    offset = 0
    for tensor in tensors:
        image.string("tensor name", tensor.name)
        image.number("dimension count", "I", len(tensor.shape))
        for size in reversed(tensor.shape):
            image.number("dimension", "Q", size)
        image.number("tensor type", "I", BLOCKS[tensor.format][0])
        image.number("offset", "Q", offset)
        offset += -(-len(tensor.data) // alignment) * alignment
    image.data += bytes(-len(image.data) % alignment)
    image.data_start = len(image.data)
    for tensor in tensors:
        image.data += tensor.data + bytes(-len(tensor.data) % alignment)
    return image


def _kind_of(value: Any) -> int:
    kinds = {bool: BOOL, int: UINT32, float: FLOAT32, str: STRING, list: ARRAY}
    return kinds[type(value)]


def _write_value(image: GGUFImage, value: Any) -> None:
    kind = _kind_of(value)
    image.number("value type", "I", kind)
    if kind == ARRAY:
        item_kind = _kind_of(value[0]) if value else UINT32
        image.number("item type", "I", item_kind)
        image.number("item count", "Q", len(value))
        for item in value:
            _write_item(image, item_kind, item)
    else:
        _write_item(image, kind, value)


def _write_item(image: GGUFImage, kind: int, value: Any) -> None:
    if kind == STRING:
        image.string("string", value)
    else:
        image.number("value", CODES[kind], value)
