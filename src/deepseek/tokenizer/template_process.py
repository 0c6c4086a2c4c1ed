"""Renders a chat template in a child process, with limits that a template cannot get around."""

import threading
from pathlib import Path
from typing import Any

from deepseek.core.child import SMALL_ANSWER, Child, ChildError
from deepseek.core.errors import TokenizerError

PROGRAM = Path(__file__).with_name("template_child.py")
RENDER_SECONDS = 4.0
CHARACTERS_PER_SECOND = 2_000_000
# A template may repeat what is said, and adds little of its own.
MAX_REPEATS = 8
MAX_OWN_CHARACTERS = 1 << 20


class TemplateProcess:
    """Started at the first use, kept for the next, replaced when it dies."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        self._setup = {"template": source, "bos": bos, "eos": eos}
        self._child: Child | None = None
        self._lock = threading.Lock()

    def render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """The rendered conversation.

        Raises:
            TokenizerError: The template is wrong, refuses, takes too long or too much memory.
        """
        size = sum(len(message["content"]) for message in messages)
        limit = MAX_OWN_CHARACTERS + MAX_REPEATS * size
        request = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "max_characters": limit,
        }
        seconds = RENDER_SECONDS + size / CHARACTERS_PER_SECOND
        with self._lock:
            try:
                if self._child is None or not self._child.is_alive:
                    self._child = self._started()
                answer = _ask(self._child, request, seconds, limit)
            except ChildError as error:
                self._child = None
                raise TokenizerError(
                    f"the chat template exceeded its bounds ({error})",
                    "it is broken or hostile: use another checkpoint",
                ) from None
        if "error" in answer:
            raise TokenizerError(
                f"the chat template failed: {answer['error']}",
                "check the order of roles, or use another checkpoint",
            )
        return str(answer["text"])

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
        self._child = None

    def _started(self) -> Child:
        child = Child(PROGRAM)
        # Compiling is work on the template's terms, too: constants are folded.
        answer = _ask(child, self._setup, RENDER_SECONDS)
        if "error" in answer:
            raise TokenizerError(
                f"the chat template is invalid: {answer['error']}", "use another checkpoint"
            )
        return child


def _ask(
    child: Child, request: dict[str, Any], seconds: float, max_characters: int = 0
) -> dict[str, Any]:
    most = 12 * max_characters + SMALL_ANSWER  # JSON writes a character in 1 to 12
    return child.ask(request | {"seconds": seconds}, seconds, most)
