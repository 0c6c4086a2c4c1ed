"""What a request's next tokens may be, and how often such guesses were right."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from deepseek.engine.suffix import ROOT, Match, SuffixAutomaton

MOST_REMEMBERED = 131_072
"""Tokens of a prompt's end in which guesses are looked for."""
KEPT_ANSWERS = 65_536
"""Tokens of earlier answers in which guesses are looked for."""
PARTED = -1
"""Between answers, none of which goes on with the next."""
PRIORS = {
    "one way": (0.0, 0.3, 0.7, 0.85, 0.9, 0.97, 0.98, 0.99),
    "some ways": (0.0, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5),
    "answered one way": (0.0, 0.1, 0.4, 0.8, 0.85, 0.9, 0.95, 0.95),
    "answered in some ways": (0.0, 0.1, 0.2, 0.2, 0.3, 0.4, 0.5, 0.5),
    "resumed": (0.2, 0.4, 0.8, 0.85, 0.9, 0.97, 0.98, 0.99),
    "draft model": (0.6,),
}
"""Chance that a token is right, by the bits of how many tokens before it are the same, until it is
seen. Whether they were always followed by this one says much about short matches."""
MOST_BITS = 7
WEIGHT = 8.0
"""Observations that what is known from elsewhere is worth."""
MEMORY = 64.0
"""Observations after which earlier ones begin to be forgotten."""
HOPELESS = 0.05
"""Guesses end where all of them are right less often than that."""
COPIED = 4
"""Tokens that are the same where an answer copies."""
FAR, LOST = 24, 48
"""Tokens that a copy may leave out, and those after which it has ended."""


@dataclass(slots=True)
class Chance:
    """How often a token of some kind of guess was right."""

    before: float
    right: float = 0.0
    tried: float = 0.0

    @property
    def value(self) -> float:
        """The chance of the next one."""
        return (self.right + WEIGHT * self.before) / (self.tried + WEIGHT)

    def learn(self, n_right: int, n_tried: int) -> None:
        """Count some."""
        self.right += n_right
        self.tried += n_tried
        if self.tried > MEMORY:
            self.right, self.tried = self.right / 2, self.tried / 2


Kind = tuple[str, int]
"""Where a guess comes from, and the bits of how much is the same before it."""


class Chances:
    """Chances of all kinds, begun with those of another."""

    def __init__(self, parent: "Chances | None" = None) -> None:
        self._parent = parent
        self._of: dict[Kind, Chance] = {}

    def of(self, kind: Kind) -> Chance:
        """That of one kind."""
        if kind not in self._of:
            before = self._parent.of(kind).value if self._parent else PRIORS[kind[0]][kind[1]]
            self._of[kind] = Chance(before)
        return self._of[kind]

    def learn(self, kind: Kind, n_right: int, n_tried: int) -> None:
        """Count tokens of a guess; up to the first wrong one they were tried."""
        self.of(kind).learn(n_right, n_tried)
        if self._parent is not None:
            self._parent.learn(kind, n_right, n_tried)


@dataclass(slots=True)
class Guess:
    """Tokens that may come next."""

    tokens: list[int]
    chances: list[float]
    """That each is right, if those before it are."""

    @property
    def expected(self) -> float:
        """How many of them are expected to be right."""
        expected, all_right = 0.0, 1.0
        for chance in self.chances:
            all_right *= chance
            expected += all_right
        return expected


class Voice(Protocol):
    """Someone who says what comes next."""

    def path(self, n: int) -> Iterator[tuple[int, Kind]]:
        """Up to `n` tokens, each with its kind of guess."""
        ...

    def follow(self, token: int) -> None:
        """Take in what came."""
        ...


class Repetition:
    """The place where the end of a text last occurred before in it."""

    def __init__(self, text: SuffixAutomaton) -> None:
        self._text = text

    def path(self, n: int) -> Iterator[tuple[int, Kind]]:
        """What followed there."""
        return _path(("some ways", "one way"), self._text, self._text.match, n)

    def follow(self, token: int) -> None:
        """Add it to the text."""
        self._text.extend((token,))


class Resumption:
    """The place where a copy was left: behind what was changed, it may go on there."""

    def __init__(self, text: SuffixAutomaton) -> None:
        """Begin with the text that is copied from; what comes is added to it later."""
        self._text = text
        self._at, self._n_same, self._n_other = 0, 0, LOST

    def path(self, n: int) -> Iterator[tuple[int, Kind]]:
        """What the copy would be; nothing behind several tokens that are none of it."""
        if self._n_other < 2:
            for i, token in enumerate(self._text.after(self._at, n)):
                yield token, ("resumed", _bits(self._n_same + i))

    def follow(self, token: int) -> None:
        """Find the token where the copy stands, or soon behind; else it takes the place of one."""
        match = self._text.match
        if match.length >= COPIED:
            self._at, self._n_same, self._n_other = match.end, match.length, 0
        if self._n_other >= LOST:
            return
        ahead = self._text.tokens[self._at : self._at + FAR]
        if token in ahead:
            n_left_out = ahead.index(token)
            self._n_same = 1 if n_left_out else self._n_same + 1
            self._at += n_left_out + 1
            self._n_other = 0
        else:
            self._at += not self._n_other
            self._n_same = 0
            self._n_other += 1


class Answers:
    """Earlier answers of one tenant."""

    def __init__(self) -> None:
        self.text = SuffixAutomaton()

    def add(self, token_ids: Sequence[int]) -> None:
        """Remember an answer; the older half is forgotten when there are too many."""
        if len(self.text) + len(token_ids) >= KEPT_ANSWERS:
            self.text = SuffixAutomaton(self.text.tokens[-KEPT_ANSWERS // 2 :])
        self.text.extend((*token_ids[-KEPT_ANSWERS // 2 :], PARTED))


class Recollection:
    """The place in earlier answers where the end of a text occurs."""

    def __init__(self, answers: Answers) -> None:
        self._answers, self._text = answers, answers.text
        self._state, self._length = ROOT, 0

    def path(self, n: int) -> Iterator[tuple[int, Kind]]:
        """What followed there."""
        match = self._text.match_of(self._state, self._length)
        for token, kind in _path(
            ("answered in some ways", "answered one way"), self._text, match, n
        ):
            if token == PARTED:
                return
            yield token, kind

    def follow(self, token: int) -> None:
        """Go on there."""
        if self._answers.text is not self._text:  # begun anew
            self._text, self._state, self._length = self._answers.text, ROOT, 0
        self._state, self._length = self._text.follow(self._state, self._length, token)


class Guesses:
    """Looks for a request's next tokens in its own text and in earlier answers."""

    def __init__(self, prompt: Sequence[int], answers: Answers, chances: Chances) -> None:
        """Begin with a prompt.

        Args:
            prompt: Its tokens.
            answers: Earlier ones.
            chances: Of requests before this one.
        """
        text = SuffixAutomaton(prompt[-MOST_REMEMBERED:])
        self._n_seen = len(prompt)
        # What is added to the text is looked for in it before.
        self._voices: list[Voice] = [
            Resumption(text),
            Repetition(text),
            Recollection(answers),
        ]
        self._chances = Chances(chances)

    def follow(self, tokens: Sequence[int]) -> None:
        """Take in what was added to the request's tokens, and who would have been right."""
        for token in tokens[self._n_seen :]:
            for voice in self._voices:
                for said, kind in voice.path(1):
                    self._chances.learn(kind, said == token, 1)
                voice.follow(token)
        self._n_seen = len(tokens)

    def all(self, n: int) -> list[Guess]:
        """What each voice says, up to `n` tokens."""
        found = []
        for voice in self._voices:
            guess, all_right = Guess([], []), 1.0
            for token, kind in voice.path(n):
                chance = self._chances.of(kind).value
                all_right *= chance
                if all_right < HOPELESS:
                    break
                guess.tokens.append(token)
                guess.chances.append(chance)
            if guess.tokens:
                found.append(guess)
        return found

    def chance(self, kind: Kind) -> float:
        """That a token of a kind of guess is right."""
        return self._chances.of(kind).value

    def learn(self, kind: Kind, n_right: int, n_tried: int) -> None:
        """Take in how a guess of someone else turned out."""
        self._chances.learn(kind, n_right, n_tried)


def _path(
    names: tuple[str, str], text: SuffixAutomaton, match: Match, n: int
) -> Iterator[tuple[int, Kind]]:
    if match.length:
        for token, length, is_alone in text.path(match, n):
            yield token, (names[is_alone], _bits(length))


def _bits(length: int) -> int:
    return min(length.bit_length(), MOST_BITS)
