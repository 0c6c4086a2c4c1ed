"""How long a prompt may be: room for answer and template, and texts that fill it exactly."""

from collections.abc import Callable

from deepseek.core.errors import RequestError
from deepseek.eval.task import Setup

SPECIAL = 2
"""Tokens that a model may put around plain text."""
TEMPLATE = 96
"""Tokens of a chat template around one question, a default system prompt included."""
DEFAULT = (4096,)
CHARACTERS = 4
"""Of a token, where no model counts them."""


def prompt_room(setup: Setup, length: int, max_tokens: int) -> int:
    """Tokens that the text of a prompt may have so that all fits into `length`."""
    return length - max_tokens - (TEMPLATE if setup.chat else SPECIAL)


def count_tokens(setup: Setup, text: str) -> int:
    """Tokens of a text for the model, or an estimate without one."""
    if setup.model is None:
        return -(-len(text) // CHARACTERS)
    return setup.model.count_tokens(text)


def context_lengths(setup: Setup) -> tuple[int, ...]:
    """The lengths that were asked for.

    Raises:
        RequestError: The model's context window is smaller than one of them.
    """
    lengths = setup.lengths or DEFAULT
    window = setup.model.context_window if setup.model else max(lengths)
    for length in lengths:
        if not 1 <= length <= window:
            raise RequestError(
                f"a context of {length:,} tokens does not fit the model's window of {window:,}",
                "choose other --lengths",
            )
    return lengths


def largest_fit(count: Callable[[int], int], room: int, least: int) -> int:
    """The largest number of pieces whose text fits, found with few counts of long texts.

    Args:
        count: Tokens of a text of that many pieces; grows with them.
        room: Tokens that the text may have.
        least: Pieces that there must be.

    Raises:
        RequestError: Not even `least` pieces fit.
    """
    low, low_tokens = least, count(least)
    if low_tokens > room:
        raise RequestError(
            f"the shortest text of this task has {low_tokens:,} tokens, {room:,} are left for it",
            "choose larger --lengths",
        )
    high, least_tokens = least * 2 + 16, low_tokens
    while (high_tokens := count(high)) <= room:
        low, low_tokens = high, high_tokens
        # The pieces cost alike: a straight line through two counts is nearly right.
        each = max((high_tokens - least_tokens) / (high - least), 1e-3)
        high = max(high + 1, min(least + int((room - least_tokens) / each * 1.02) + 2, high * 64))
    turn = 0
    while high - low > 1:
        turn += 1
        share = (room - low_tokens) / max(high_tokens - low_tokens, 1)
        # Now and then the middle, in case that the pieces do not cost alike.
        middle = (low + high) // 2 if turn % 3 == 0 else low + int(share * (high - low))
        middle = min(max(middle, low + 1), high - 1)
        tokens = count(middle)
        if tokens <= room:
            low, low_tokens = middle, tokens
        else:
            high, high_tokens = middle, tokens
    return low


def fitting_size(
    build: Callable[[int], str], setup: Setup, room: int, least: int, size: int = 0
) -> int:
    """The number of pieces with which a text fits.

    Args:
        build: The text of that many pieces.
        setup: Whose model counts.
        room: Tokens that the text may have.
        least: Pieces that there must be.
        size: Taken if it fits, and made a little smaller if not, so that a series of like texts
            is counted about once each; 0 for a text that is like none before.

    Raises:
        RequestError: Not even `least` pieces fit.
    """
    while size >= least:
        tokens = count_tokens(setup, build(size))
        if tokens <= room:
            return size
        size -= max(1, (tokens - room) * size // tokens)
    return largest_fit(lambda n: count_tokens(setup, build(n)), room, least)
