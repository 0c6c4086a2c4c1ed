"""Tells what a model thinks, between `<think>` and `</think>`, from what it answers."""

from collections.abc import Sequence

from deepseek.engine.stopping import StopFinder
from deepseek.tokenizer.tokenizer import Tokenizer

OPEN, CLOSE = "<think>", "</think>"
AFTER_CLOSE = "\n\n"
"""What models of this kind write behind the mark."""
N_LAST = 8
"""Tokens of the prompt that may spell the mark."""


def opens_reasoning(tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
    """Whether a prompt ends with the mark, as some chat templates do."""
    end = tokenizer.decode(prompt[-N_LAST:], skip_control=False)
    return end.rstrip().endswith(OPEN)


class Reasoning:
    """Splits the text of one answer as it comes.

    Reasoning stands at the beginning only: a mark further on is text.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, is_open: bool, may_open: bool, budget: int | None
    ) -> None:
        """Begin an answer.

        Args:
            tokenizer: Cuts the mark that ends reasoning over its budget.
            is_open: The prompt has the opening mark already.
            may_open: The answer may begin with it.
            budget: Tokens of reasoning; None: any number.
        """
        self.is_open = is_open
        self.n_tokens = 0
        self.closing: list[int] = []
        """Tokens that come next, whatever the model says."""
        self._tokenizer, self._budget = tokenizer, budget
        self._may_open = may_open and not is_open
        self._close = StopFinder((CLOSE,))
        self._held = ""
        self._has_begun = False  # the part that is being written, behind white space
        self._has_closed = False
        self._check_budget()

    def push(self, piece: str) -> tuple[str, str]:
        """Take the text of a token; return what may be shown of reasoning and of the answer."""
        if self._may_open:
            self._held += piece
            if len(self._held) < len(OPEN) and OPEN.startswith(self._held):
                return "", ""
            self._may_open = False
            piece = self._take_held()
            if piece.startswith(OPEN):
                self.is_open, piece = True, piece[len(OPEN) :]
                self._check_budget()
        if not self.is_open:
            return "", self._without_lead(piece) if self._has_closed else piece
        thought = self._without_lead(self._close.push(piece))
        if not self._close.found:
            return thought, ""
        self.is_open, self._has_closed, self._has_begun = False, True, False
        return thought, self._without_lead(self._close.rest)

    def count(self) -> None:
        """Count a token that was written while reasoning was open."""
        self.n_tokens += 1
        self._check_budget()

    def close(self) -> None:
        """Let the closing mark come next."""
        if self.is_open and not self.closing:
            self.closing = self._tokenizer.encode(CLOSE + AFTER_CLOSE, control=True)

    def flush(self) -> tuple[str, str]:
        """What is still held, of reasoning and of the answer."""
        return (self._close.flush() if self.is_open else ""), self._take_held()

    def _check_budget(self) -> None:
        if self._budget is not None and self.n_tokens >= self._budget:
            self.close()

    def _take_held(self) -> str:
        held, self._held = self._held, ""
        return held

    def _without_lead(self, text: str) -> str:
        """Text without the white space that a part begins with."""
        if not self._has_begun:
            text = text.lstrip()
            self._has_begun = bool(text)
        return text
