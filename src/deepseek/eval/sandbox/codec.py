"""Plain data between processes that do not trust each other.

Only values of Python's own plain types cross, rebuilt from JSON on the other side: no code,
no class and no `__eq__` of the sender comes along. Everything else stays with its owner and
crosses as a number (`Reference`) by which the owner can be asked about it.

A plain value is itself in JSON when it is None, a bool, a float, a str or a small int, and
otherwise a list that begins with its kind, e.g. `["tuple", 1, 2]`.
"""

import json
import socket
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_FRAME_BYTES = 64 << 20
SMALL = 1 << 63

Keep = Callable[[Any], int]
"""Gives an object that cannot cross a number."""
Fetch = Callable[[int, str], Any]
"""The object of a number, or what stands for it, given the name of its type."""


class Closed(Exception):
    """The other side is gone."""


def encode(value: Any, keep: Keep) -> Any:
    """A value in its JSON form; a subclass of a plain type counts as that type."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int.__index__(value)
        return number if -SMALL < number < SMALL else ["int", int.__format__(number, "x")]
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    for kind, (cls, pack, _) in KINDS.items():
        if isinstance(value, cls):
            return [kind, *(encode(part, keep) for part in pack(value))]
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return encode(value.item(), lambda other: keep(value))
    return ["reference", keep(value), type(value).__name__]


def decode(data: Any, fetch: Fetch) -> Any:
    """The value of a JSON form.

    Raises:
        ValueError: The form is not one that `encode` writes.
    """
    if not isinstance(data, list):
        if isinstance(data, dict):
            raise ValueError("an object is no value's form")
        return data
    kind, *parts = data
    if kind == "int":
        return int(parts[0], 16)
    if kind == "reference":
        return fetch(int(parts[0]), str(parts[1]))
    if kind not in KINDS:
        raise ValueError(f"no value is of the kind {kind!r}")
    return KINDS[kind][2]([decode(part, fetch) for part in parts])


def _flatten(value: Any) -> list[Any]:
    return [part for pair in dict.items(value) for part in pair]


def _flatten_ordered(value: Any) -> list[Any]:
    return [part for pair in OrderedDict.items(value) for part in pair]


def _pairs(parts: list[Any]) -> Any:
    return zip(parts[::2], parts[1::2], strict=True)


# Unpacking by the base type's own methods: a subclass may have overridden them. Subclasses
# stand before their bases.
KINDS: dict[str, tuple[Any, Callable[[Any], Any], Callable[[list[Any]], Any]]] = {
    "tuple": (tuple, tuple.__iter__, tuple),
    "list": (list, list.__iter__, list),
    "set": (set, set.__iter__, set),
    "frozenset": (frozenset, frozenset.__iter__, frozenset),
    "counter": (Counter, _flatten, lambda parts: Counter(dict(_pairs(parts)))),
    "ordered": (OrderedDict, _flatten_ordered, lambda parts: OrderedDict(_pairs(parts))),
    "dict": (dict, _flatten, lambda parts: dict(_pairs(parts))),
    "keys": (type({}.keys()), list, lambda parts: dict.fromkeys(parts).keys()),
    "range": (range, lambda r: (r.start, r.stop, r.step), lambda parts: range(*parts)),
    "complex": (
        complex,
        lambda value: (complex.__complex__(value).real, complex.__complex__(value).imag),
        lambda parts: complex(*parts),
    ),
    "bytes": (bytes, lambda v: (bytes.hex(v),), lambda parts: bytes.fromhex(parts[0])),
    "bytearray": (
        bytearray,
        lambda v: (bytearray.hex(v),),
        lambda parts: bytearray.fromhex(parts[0]),
    ),
    "deque": (deque, lambda v: (v.maxlen, *v), lambda p: deque(p[1:], p[0])),
    "fraction": (Fraction, lambda v: (v.numerator, v.denominator), lambda p: Fraction(*p)),
    "decimal": (Decimal, lambda v: (Decimal.__str__(v),), lambda p: Decimal(p[0])),
}


class Channel:
    """Messages in JSON over a socket, each after its length."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, message: Any) -> None:
        """Send one message.

        Raises:
            Closed: Nobody listens.
            ValueError: It is too large.
        """
        text = json.dumps(message).encode()
        if len(text) > MAX_FRAME_BYTES:
            raise ValueError(f"a message of {len(text):,} bytes is too large")
        try:
            self._socket.sendall(struct.pack(">I", len(text)) + text)
        except OSError as error:
            raise Closed(str(error)) from None

    def receive(self) -> Any:
        """The next message.

        Raises:
            Closed: There is none: the other side has ended.
            ValueError: What comes is no message.
        """
        (size,) = struct.unpack(">I", self._read(4))
        if size > MAX_FRAME_BYTES:
            raise ValueError(f"a message of {size:,} bytes is too large")
        return json.loads(self._read(size))

    def _read(self, size: int) -> bytes:
        pieces = bytearray()
        while len(pieces) < size:
            try:
                piece = self._socket.recv(min(size - len(pieces), 1 << 20))
            except OSError as error:
                raise Closed(str(error)) from None
            if not piece:
                raise Closed("the other side has ended")
            pieces += piece
        return bytes(pieces)
