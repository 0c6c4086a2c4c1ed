"""Records for fine-tuning, one JSON object a line: what cannot be used is put aside with a reason.

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    {"prompt": "…", "completion": "…"}
    {"prompt": "…", "chosen": "…", "rejected": "…"}
    {"prompt": "…", "answer": "42"}

A prompt is a text, which becomes a user's message, or a list of messages. `chosen` and `rejected`
are texts, or lists whose last message is the answer.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepseek.core.errors import DocumentError, RequestError
from deepseek.core.llm import Message

LARGEST_LINE = 16 << 20
"""Characters of a record; a longer line is put aside."""
SHOWN = 200


class BadRecord(Exception):
    """Why a record cannot be used."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line that is an object."""

    place: str
    """File and line."""
    values: Mapping[str, Any]


@dataclass(slots=True)
class Quarantine:
    """Records that were put aside, and how many were good."""

    bad: list[tuple[str, str, str]] = field(default_factory=list)
    """Place, reason, and the beginning of each."""
    n_read: int = 0
    n_repeated: int = 0
    n_truncated: int = 0
    n_held_out: int = 0
    n_kept: int = 0

    def put(self, place: str, reason: str, text: str) -> None:
        """Put one aside."""
        self.bad.append((place, reason, text[:SHOWN]))

    def __str__(self) -> str:
        return (
            f"{self.n_read:,} records, {len(self.bad):,} put aside, {self.n_repeated:,} repeated, "
            f"{self.n_truncated:,} truncated, {self.n_held_out:,} held out, {self.n_kept:,} kept"
        )

    def lines(self) -> str:
        """As JSON lines."""
        rows = ({"place": p, "reason": r, "record": t} for p, r, t in self.bad)
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def record_files(path: Path) -> list[Path]:
    """A file, or the `.jsonl` files of a folder, in order.

    Raises:
        DocumentError: There is none.
    """
    if path.is_dir():
        found = sorted(path.rglob("*.jsonl"))
        if not found:
            raise DocumentError(f"{path} holds no .jsonl files", "name a file or another folder")
        return found
    if not path.is_file():
        raise DocumentError(f"{path} does not exist", "name a .jsonl file, or a folder with some")
    return [path]


def read_records(files: Sequence[Path], quarantine: Quarantine) -> Iterator[Record]:
    """All lines that are objects; others go to the quarantine.

    Raises:
        DocumentError: A file cannot be read.
    """
    for file in files:
        try:
            with file.open("rb") as lines:
                for number, line in enumerate(iter(lambda: lines.readline(LARGEST_LINE), b""), 1):
                    if line.strip():
                        quarantine.n_read += 1
                        yield from _record(f"{file.name}:{number}", line, quarantine)
        except OSError as error:
            raise DocumentError(f"cannot read {file}: {error.strerror}", "check it") from None


def _record(place: str, line: bytes, quarantine: Quarantine) -> Iterator[Record]:
    try:
        text = line.decode("utf-8")
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"no JSON: {error}" if len(line) < LARGEST_LINE else "the line is too long"
        quarantine.put(place, reason, line[:SHOWN].decode("utf-8", "replace"))
        return
    if isinstance(values, dict):
        yield Record(place, values)
    else:
        quarantine.put(place, "no JSON object", text)


def conversation_of(values: Mapping[str, Any]) -> list[Message]:
    """The messages of a record with answers to learn.

    Raises:
        BadRecord: It has none.
    """
    if "messages" in values:
        messages = messages_of(values["messages"], "messages")
        if not any(message.role == "assistant" for message in messages):
            raise BadRecord("no message is an assistant's")
        return messages
    if "prompt" in values and "completion" in values:
        prompt = prompt_of(values)
        return [*prompt, *_answer(values["completion"], "completion", prompt)]
    raise BadRecord("neither messages nor prompt and completion")


def pair_of(values: Mapping[str, Any]) -> tuple[list[Message], Message, Message]:
    """The prompt of a preference record, its better and its worse answer.

    Raises:
        BadRecord: Something is missing, or both are the same.
    """
    prompt = prompt_of(values)
    answers = []
    for name in ("chosen", "rejected"):
        if name not in values:
            raise BadRecord(f"no {name}")
        answers.append(_answer(values[name], name, prompt)[0])
    if answers[0] == answers[1]:
        raise BadRecord("chosen and rejected are the same")
    return prompt, answers[0], answers[1]


def prompt_of(values: Mapping[str, Any]) -> list[Message]:
    """The messages in front of an answer.

    Raises:
        BadRecord: There are none, or they end with an answer.
    """
    prompt = values.get("prompt")
    if isinstance(prompt, str):
        if not prompt.strip():
            raise BadRecord("prompt is empty")
        return [Message("user", prompt)]
    messages = messages_of(prompt, "prompt")
    if messages[-1].role == "assistant":
        raise BadRecord("prompt ends with an assistant's message")
    return messages


def messages_of(value: Any, name: str) -> list[Message]:
    """A list of messages.

    Raises:
        BadRecord: It is none.
    """
    if not isinstance(value, list) or not value:
        raise BadRecord(f"{name} is no list of messages")
    found = []
    for number, item in enumerate(value, 1):
        if not isinstance(item, dict) or not isinstance(item.get("content"), str):
            raise BadRecord(f"message {number} of {name} has no content")
        try:
            message = Message(item.get("role"), item["content"])  # type: ignore[arg-type]
        except (RequestError, TypeError):
            raise BadRecord(f"message {number} has the role {item.get('role')!r}"[:SHOWN]) from None
        if message.role == "assistant" and not message.content.strip():
            raise BadRecord(f"message {number}, an answer, is empty")
        found.append(message)
    return found


def _answer(value: Any, name: str, prompt: Sequence[Message]) -> list[Message]:
    if isinstance(value, list):
        messages = messages_of(value, name)
        if messages[-1].role != "assistant" or messages[:-1] not in ([], list(prompt)):
            raise BadRecord(f"{name} is no answer to prompt")
        return [messages[-1]]
    if not isinstance(value, str) or not value.strip():
        raise BadRecord(f"{name} is no text")
    return [Message("assistant", value)]
