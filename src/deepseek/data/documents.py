"""Texts of training data one by one: read, told apart, kept clear of evaluation sets."""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from deepseek.core.errors import DocumentError
from deepseek.core.llm import Message
from deepseek.data.contamination import ContaminationIndex
from deepseek.data.records import BadRecord, conversation_of
from deepseek.data.text import LARGEST

PARTS = 1 << 32
"""Into so many parts documents fall by their digests, to hold some out."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text, and on which side of the held-out line it lies."""

    text: str
    is_held_out: bool
    messages: tuple[Message, ...] = ()
    """Of a conversation, whose answers alone are learned; `text` is all that is said in it."""

    @property
    def difficulty(self) -> float:
        """Compressed size by size: of cheap signals the one that orders a curriculum best."""
        data = self.text.encode("utf-8", "replace")
        return len(zlib.compress(data, 1)) / max(1, len(data))


@dataclass(slots=True)
class Funnel:
    """What became of the documents of a source."""

    read: int = 0
    unreadable: int = 0
    repeated: int = 0
    contaminated: int = 0
    held_out: int = 0
    kept: int = 0

    def put_aside(self, document: Document) -> None:
        """Count one that was given out as unreadable after all."""
        self.unreadable += 1
        self.held_out -= document.is_held_out
        self.kept -= not document.is_held_out

    def __str__(self) -> str:
        return (
            f"{self.read:,} read, {self.unreadable:,} unreadable or empty, "
            f"{self.repeated:,} repeated, {self.contaminated:,} with evaluation texts, "
            f"{self.held_out:,} held out, {self.kept:,} kept"
        )


def documents(
    files: Sequence[Path],
    funnel: Funnel,
    *,
    held_out: float = 0.0,
    index: ContaminationIndex | None = None,
    refuse: bool = False,
    conversations: bool = False,
) -> Iterator[Document]:
    """All different, clean texts in the order of the files.

    Args:
        files: Texts, or `.jsonl` files with a `text` in each line.
        funnel: Counts what becomes of them.
        held_out: Share of the documents that is held out, by a digest of the text: the same
            text is always on the same side.
        index: Evaluation texts; documents that share a stretch with them are dropped.
        refuse: Raise instead of dropping.
        conversations: Lines have `messages`, or `prompt` and `completion`, in place of a `text`.

    Raises:
        DocumentError: A document holds evaluation texts, and that is refused; or a line of a
            `.jsonl` file is no object with a text, or no conversation with an answer.
    """
    seen: set[bytes] = set()
    for file in files:
        for place, text, messages in _texts(file, conversations):
            funnel.read += 1
            if text is None or not text.strip():
                funnel.unreadable += 1
                continue
            digest = blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
            if digest in seen:
                funnel.repeated += 1
                continue
            seen.add(digest)
            if index is not None and (matches := index.matches(text)):
                if refuse:
                    raise DocumentError(
                        f"{place} repeats a text of {', '.join(matches[0].tasks)}",
                        'take it out, or set decontamination.action = "drop"',
                    )
                funnel.contaminated += 1
                continue
            is_held_out = int.from_bytes(digest[:4], "little") < held_out * PARTS
            if is_held_out:
                funnel.held_out += 1
            else:
                funnel.kept += 1
            yield Document(text, is_held_out, messages)


Found = tuple[str, str | None, tuple[Message, ...]]
"""Place, text and messages of a document; no text where there is none to read."""


def _texts(file: Path, conversations: bool) -> Iterator[Found]:
    try:
        if file.suffix == ".jsonl":
            yield from _lines(file, conversations)
        elif file.stat().st_size <= LARGEST and not conversations:
            yield str(file), file.read_text(encoding="utf-8"), ()
        else:
            yield str(file), None, ()
    except (OSError, UnicodeDecodeError):
        yield str(file), None, ()


def _lines(file: Path, conversations: bool) -> Iterator[Found]:
    with file.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(LARGEST), b""), 1):
            place = f"{file}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if conversations:
                yield _conversation(place, row)
                continue
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise DocumentError(
                    f"{place} is no JSON object with a text", 'write {"text": "…"} in each line'
                )
            yield place, row["text"], ()


def _conversation(place: str, row: Any) -> Found:
    try:
        if not isinstance(row, dict):
            raise BadRecord("no JSON object")
        messages = conversation_of(row)
    except BadRecord as error:
        raise DocumentError(
            f"{place} is no conversation: {error}",
            'write {"messages": [{"role": "user", "content": "…"}, …]} in each line',
        ) from None
    return place, "\n\n".join(message.content for message in messages), tuple(messages)
