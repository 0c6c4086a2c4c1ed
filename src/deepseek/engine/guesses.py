"""What a request's next tokens may be, and how often such guesses were right."""

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.engine.suffix import ROOT, SuffixAutomaton

MOST_REMEMBERED = 131_072
"""Tokens of a prompt's end in which guesses are looked for."""
KEPT_ANSWERS = 65_536
"""Tokens of earlier answers in which guesses are looked for."""
PARTED = -1
"""Between answers, none of which goes on with the next."""
PRIOR = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
"""Chance that the next token is the one that followed before, by the bits of how many tokens before
it are the same; what is observed soon counts more."""
WEIGHT = 4.0
"""Observations that what is known from elsewhere is worth."""
MEMORY = 64.0
"""Observations after which earlier ones begin to be forgotten."""


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
            before = self._parent.of(kind).value if self._parent else PRIOR[kind[1]]
            self._of[kind] = Chance(before)
        return self._of[kind]

    def learn(self, kind: Kind, n_right: int, n_tried: int) -> None:
        """Count tokens of a guess; up to the first wrong one they were tried."""
        self.of(kind).learn(n_right, n_tried)
        if self._parent is not None:
            self._parent.learn(kind, n_right, n_tried)


@dataclass(slots=True)
class Guess:
    """Where next tokens may be found."""

    source: SuffixAutomaton
    end: int
    kind: Kind
    chance: float
    """That each of them is right, if those before it are."""

    def tokens(self, n: int) -> list[int]:
        """The first `n` of them, or as many as there are."""
        found = self.source.after(self.end, n)
        return found[: found.index(PARTED)] if PARTED in found else found


class Answers:
    """Earlier answers of one tenant."""

    def __init__(self) -> None:
        self.text = SuffixAutomaton()

    def add(self, token_ids: Sequence[int]) -> None:
        """Remember an answer; the older half is forgotten when there are too many."""
        if len(self.text) + len(token_ids) >= KEPT_ANSWERS:
            self.text = SuffixAutomaton(self.text.tokens[-KEPT_ANSWERS // 2 :])
        self.text.extend((*token_ids[-KEPT_ANSWERS // 2 :], PARTED))


class Guesses:
    """Looks for a request's next tokens in its own text and in earlier answers."""

    def __init__(self, prompt: Sequence[int], answers: Answers, chances: Chances) -> None:
        """Begin with a prompt.

        Args:
            prompt: Its tokens.
            answers: Earlier ones.
            chances: Of requests before this one.
        """
        self._own = SuffixAutomaton(prompt[-MOST_REMEMBERED:])
        self._n_seen = len(prompt)
        self._answers, self._text = answers, answers.text
        self._state, self._length = ROOT, 0
        self._chances = Chances(chances)

    def follow(self, tokens: Sequence[int]) -> None:
        """Take in what was added to the request's tokens."""
        new = tokens[self._n_seen :]
        self._own.extend(new)
        if self._answers.text is not self._text:  # begun anew
            self._text, self._state, self._length = self._answers.text, ROOT, 0
        for token in new:
            self._state, self._length = self._text.follow(self._state, self._length, token)
        self._n_seen = len(tokens)

    def best(self) -> Guess | None:
        """The likeliest guess; None: nothing of the kind was seen before."""
        own, other = self._own.match, self._text.match_of(self._state, self._length)
        found = [
            self._guess(name, text, match.end, match.length)
            for name, text, match in (("own", self._own, own), ("answers", self._text, other))
            if match.length
        ]
        return max(found, key=lambda guess: guess.chance, default=None)

    def learn(self, kind: Kind, n_drafted: int, n_right: int) -> None:
        """Take in how a guess turned out."""
        self._chances.learn(kind, n_right, min(n_drafted, n_right + 1))

    def chance(self, kind: Kind) -> float:
        """That a token of a kind of guess is right."""
        return self._chances.of(kind).value

    def _guess(self, name: str, text: SuffixAutomaton, end: int, length: int) -> Guess:
        kind = (name, min(length.bit_length(), len(PRIOR) - 1))
        return Guess(text, end, kind, self._chances.of(kind).value)
