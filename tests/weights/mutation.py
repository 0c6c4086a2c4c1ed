"""Damages files at random, but with knowledge of where their numbers and strings are."""

import json
import random
import struct
from collections.abc import Callable

from gguf_writer import GGUFImage, Place
from safetensors_writer import Table, file_bytes

Mutation = Callable[[random.Random], bytes]

EXTREMES = (0, 1, 2, 7, 31, 33, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**48)
EXTREMES += (2**62, 2**63 - 1, 2**63, 2**64 - 1)


def mutated_gguf(image: GGUFImage, rng: random.Random) -> bytes:
    """One to three changes to a GGUF file."""
    data = bytearray(image.data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.randrange(8)
        if kind <= 3:
            _change_number(data, rng.choice(_of_rare_kinds(image, rng)), rng)
        elif kind == 4:
            _change_string(data, *rng.choice(image.strings), rng)
        else:
            data = _change_bytes(data, image.data_start, rng)
    return bytes(data)


def mutated_safetensors(table: Table, data: bytes, rng: random.Random) -> bytes:
    """One to three changes to a safetensors file, in its JSON, its length or its bytes."""
    table = json.loads(json.dumps(table))
    structural = rng.randrange(3) > 0
    if structural:
        for _ in range(rng.choice((1, 1, 2, 3))):
            _change_row(table, rng)
    whole = bytearray(file_bytes(table, data))
    if not structural or rng.random() < 0.1:
        header = len(whole) - len(data)
        if rng.random() < 0.2:
            struct.pack_into("<Q", whole, 0, _number(header - 8, rng) % 2**64)
        else:
            whole = _change_bytes(whole, header, rng)
    return bytes(whole)


def _of_rare_kinds(image: GGUFImage, rng: random.Random) -> list[Place]:
    """All numbers of one kind, so that many array items do not crowd out few counts."""
    kind = rng.choice(sorted({place.kind for place in image.places}))
    return [place for place in image.places if place.kind == kind]


def _number(old: int, rng: random.Random) -> int:
    """A number near the old one, a power of two away, or at an edge of its type."""
    return rng.choice(
        (
            rng.choice(EXTREMES),
            old + rng.choice((-33, -32, -8, -1, 1, 8, 32, 33)),
            old * 2,
            old // 2,
            old ^ (1 << rng.randrange(64)),
            rng.getrandbits(rng.choice((8, 16, 32, 64))),
        )
    )


def _change_number(data: bytearray, place: Place, rng: random.Random) -> None:
    width = struct.calcsize(place.code)
    if place.start + width > len(data):  # an earlier change cut it off
        return
    if place.code == "f":
        value = rng.choice((0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"), rng.random()))
        struct.pack_into("<f", data, place.start, value)
        return
    old = int.from_bytes(data[place.start : place.start + width], "little")
    new = _number(old, rng) % (1 << 8 * width)
    data[place.start : place.start + width] = new.to_bytes(width, "little")


def _change_string(data: bytearray, text: str, start: int, rng: random.Random) -> None:
    if not text or start + len(text.encode()) > len(data):
        return
    position = start + rng.randrange(len(text.encode()))
    data[position] = rng.choice((0, ord("."), ord("0") + rng.randrange(10), rng.randrange(256)))


def _change_bytes(data: bytearray, data_start: int, rng: random.Random) -> bytearray:
    """Flips, a cut, an insertion, a deletion or a swap of pieces; most of them in the header."""
    limit = data_start if rng.random() < 0.7 else len(data)
    position = rng.randrange(max(1, min(limit, len(data))))
    length = rng.choice((1, 1, 4, 8, 32, 500))
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            i = rng.randrange(max(1, min(limit, len(data))))
            if i < len(data):
                data[i] ^= 1 << rng.randrange(8)
        return data
    if kind == 1:
        return data[:position]
    if kind == 2:
        return data[:position] + rng.randbytes(length) + data[position:]
    if kind == 3:
        return data[:position] + data[position + length :]
    if kind == 4:
        return data[:position] + bytes(length) + data[position + length :]
    return data[:position] + data[position : position + length] * 2 + data[position + length :]


def _change_row(table: Table, rng: random.Random) -> None:
    name = rng.choice([key for key in table if key != "__metadata__"] or ["a.weight"])
    row = table.get(name)
    kind = rng.randrange(7)
    if not isinstance(row, dict) or kind == 0:
        table[name] = rng.choice((None, 1, [], {}, "x", {"dtype": "F32"}))
    elif kind == 1:
        row["dtype"] = rng.choice(("F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "", None, 3))
    elif kind == 2 and isinstance(row.get("shape"), list) and row["shape"]:
        row["shape"][rng.randrange(len(row["shape"]))] = _signed(rng)
    elif kind == 3 and isinstance(row.get("data_offsets"), list) and row["data_offsets"]:
        row["data_offsets"][rng.randrange(len(row["data_offsets"]))] = _signed(rng)
    elif kind == 4 and row:
        row.pop(rng.choice(sorted(row)))
    elif kind == 5 and isinstance(row.get("shape"), list):
        row["shape"].insert(rng.randrange(3), _signed(rng))
    else:
        table[rng.choice(("a.weight", "d.weight", "", "\ud800", "x" * 300))] = table.pop(name)


def _signed(rng: random.Random) -> object:
    return rng.choice((_number(8, rng), -_number(8, rng), 1.5, 1e300, None, True, "8", [8]))
