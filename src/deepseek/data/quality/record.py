"""What readers give: records with a text, and flaws that are put aside with their reason."""

from dataclasses import dataclass, field
from typing import Any

MAX_KEPT = 65_536
"""Bytes of a bad record that are kept; its place says where the rest is."""


@dataclass(frozen=True, slots=True)
class Record:
    """A text that could be read."""

    id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that could not be read as a text."""

    place: str
    reason: str
    data: bytes = b""
    """How it begins."""

    def as_table(self) -> dict[str, Any]:
        """For JSON; bytes stand as the characters with their numbers (latin-1)."""
        table = {"place": self.place, "reason": self.reason, "bytes": len(self.data)}
        return table | {"data": self.data[:MAX_KEPT].decode("latin-1")}


def checked(place: str, text: str) -> Record | Flaw:
    """A text, unless it is none that can be written again."""
    if not text.strip():
        return Flaw(place, "empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return Flaw(place, "half a character (a lone surrogate)", text.encode("utf-8", "replace"))
    return Record(place, text)
