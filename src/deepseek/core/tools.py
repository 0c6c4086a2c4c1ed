"""Tool calls in the text of an answer, in the format of Hermes and Qwen.

A call is `<tool_call>` with an object in JSON that has `name` and `arguments`, `</tool_call>`.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_CALLS = 128
MAX_NAME = 256
# No call holds another's mark: an unclosed call is text, and the one behind it still counts.
_CALL = re.compile(rf"{re.escape(OPEN)}((?:(?!{re.escape(OPEN)}).)*?){re.escape(CLOSE)}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants to have called."""

    name: str
    arguments: dict[str, Any]


def split_tool_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """What is said, and the calls.

    Args:
        text: A whole answer.

    Returns:
        The text without the well-formed calls, and those in order. A call that is no JSON, has no
        name, or comes behind the first 128 stays in the text.
    """
    calls: list[ToolCall] = []

    def take(match: re.Match[str]) -> str:
        call = _call_of(match[1]) if len(calls) < MAX_CALLS else None
        if call is None:
            return match[0]
        calls.append(call)
        return ""

    rest = _CALL.sub(take, text)
    return (rest.strip() if calls else text), tuple(calls)


def _call_of(source: str) -> ToolCall | None:
    """A call from its JSON; arguments may be an object or, as some models write, text with one."""
    try:
        value = json.loads(source, parse_constant=_refuse)
        if not isinstance(value, dict):
            return None
        name, arguments = value.get("name"), value.get("arguments", {})
        if isinstance(arguments, str):
            arguments = json.loads(arguments, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
        return None
    return ToolCall(name, arguments) if isinstance(arguments, dict) else None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")
