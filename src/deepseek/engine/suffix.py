"""Where the end of a text occurred before in it, and what followed there.

A suffix automaton (Blumer et al. 1985) that grows with the text: a token costs constant time on
average, however long the text is. Draws on SAM-Decoding (Hu et al. 2024) and SuffixDecoding
(Oliaro et al. 2024), which guess the next tokens of an answer that way.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

ROOT = 0


@dataclass(frozen=True, slots=True)
class Match:
    """The end of a text as it occurred elsewhere."""

    length: int
    """Tokens that are the same."""
    end: int
    """Place of the token behind them."""
    state: int = ROOT
    """Of the automaton behind them."""


class SuffixAutomaton:
    """A text that knows where each of its parts occurs."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self.tokens: list[int] = []
        self.match = Match(0, 0)
        """Of the longest end of the text that occurs before, where it did last."""
        self._next: list[dict[int, int]] = [{}]
        self._link, self._length, self._end = [-1], [0], [0]
        self._last = ROOT
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens to the text."""
        for token in tokens:
            self._append(token)

    def follow(self, state: int, length: int, token: int) -> tuple[int, int]:
        """The longest end of another text that occurs in this one, a token later.

        Args:
            state: Of the end before; at first `ROOT`.
            length: Of that end; at first 0.
            token: Added to the other text.
        """
        while state != ROOT and token not in self._next[state]:
            state = self._link[state]
            length = self._length[state]
        if token not in self._next[state]:
            return ROOT, 0
        return self._next[state][token], length + 1

    def match_of(self, state: int, length: int) -> Match:
        """Where an end that was followed occurs."""
        return Match(length, self._end[state], state)

    def path(self, match: Match, n: int) -> Iterator[tuple[int, int, bool]]:
        """What followed where a text matches, up to `n` tokens.

        Yields:
            A token, how many before it are the same if it is right, and whether these were never
            followed by another one.
        """
        state, length = match.state, match.length
        for token in self.after(match.end, n):
            yield token, length, len(self._next[state]) <= 1
            state, length = self.follow(state, length, token)

    def after(self, end: int, n: int) -> list[int]:
        """What follows at a place, up to `n` tokens; the end of the text repeats what led to it."""
        found = self.tokens[end : end + n]
        period = len(self.tokens) - end
        while period and len(found) < n:
            found.append(found[len(found) - period])
        return found

    def _append(self, token: int) -> None:
        following, link, length = self._next, self._link, self._length
        self.tokens.append(token)
        here = self._add(len(self.tokens), {}, len(self.tokens))
        state = self._last
        while state != -1 and token not in following[state]:
            following[state][token] = here
            state = link[state]
        if state == -1:
            link[here] = ROOT
        else:
            there = following[state][token]
            if length[there] != length[state] + 1:
                there = self._split(state, token, there)
            link[here] = there
        self._last = here
        before = link[here]
        self.match = Match(length[before], self._end[before] if before else 0, before)
        self._end[before] = len(self.tokens)  # the last place is the likeliest to go on alike

    def _split(self, state: int, token: int, there: int) -> int:
        """Part the shorter ends of a state from the longer ones, which occur less often."""
        shorter = self._add(self._length[state] + 1, dict(self._next[there]), self._end[there])
        self._link[shorter] = self._link[there]
        self._link[there] = shorter
        while state != -1 and self._next[state].get(token) == there:
            self._next[state][token] = shorter
            state = self._link[state]
        return shorter

    def _add(self, length: int, following: dict[int, int], end: int) -> int:
        self._next.append(following)
        self._link.append(ROOT)
        self._length.append(length)
        self._end.append(end)
        return len(self._next) - 1
