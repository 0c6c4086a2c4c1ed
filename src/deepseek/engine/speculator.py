"""Speculative decoding: whose next tokens are guessed, and how many, so that passes gain by it.

Guesses run in the same pass as the token before them, and each is kept if it is the one that the
request chooses anyway, by its own sampler: an answer is the same with and without them, whatever
the temperature (Leviathan et al. 2023, for guesses that are certain of themselves). More rows make
a pass slower: tokens are guessed as long as they make up for it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from deepseek.engine.guesses import Answers, Chances, Guess, Guesses
from deepseek.engine.pass_times import ROWS, PassTimes
from deepseek.engine.request import Request

MOST = 31
"""Guessed tokens in a pass."""
GAIN = 1.03
"""By how much more tokens a second are expected of a pass with guesses than without."""
TENANTS = 64
"""Tenants whose answers are remembered."""


@dataclass(slots=True)
class Draft:
    """Guessed tokens of a request."""

    request: Request
    guess: Guess
    tokens: list[int]


class Speculator:
    """Guesses for the requests of one scheduler."""

    def __init__(self, run: Callable[[int], float]) -> None:
        """Begin.

        Args:
            run: Runs a pass of so many rows that means nothing; returns its seconds.
        """
        self.times = PassTimes()
        self._run = run
        self._chances = Chances()
        self._answers: OrderedDict[str, Answers] = OrderedDict()

    def draft(self, requests: Sequence[Request], n_rows: int, n_reading: int) -> None:
        """Put guesses behind the tokens of requests that wait for their next one only.

        Args:
            requests: Those.
            n_rows: Rows of the pass without guesses, except of prompts.
            n_reading: Of prompts.
        """
        drafts = self._possible(requests)
        if not drafts:
            return
        if not self.times.is_known:
            self.times.measure(self._run)
        sizes = best_sizes(
            [d.guess.chance for d in drafts],
            [len(d.tokens) for d in drafts],
            self._seconds(n_rows, n_reading),
            n_rows,
        )
        for draft, size in zip(drafts, sizes, strict=True):
            if size:
                draft.request.run_ahead(draft.tokens[:size], draft.guess.kind)

    def learn(self, request: Request, n_right: int) -> None:
        """Take in how many of the tokens that ran ahead were chosen."""
        if request.guesses is not None and request.guess is not None:
            request.guesses.learn(request.guess, request.n_ahead, n_right)
            request.n_drafted += request.n_ahead
            request.n_accepted += n_right

    def remember(self, request: Request) -> None:
        """Take in a whole answer, for requests to come."""
        self._of(request).add(request.answer.token_ids)

    def note(self, n_rows: int, seconds: float) -> None:
        """Take in what a pass took in which nothing was read."""
        if self.times.is_known and n_rows <= ROWS[-1]:
            self.times.note(n_rows, seconds)

    def _possible(self, requests: Iterable[Request]) -> list[Draft]:
        """The longest guesses that there are."""
        found = []
        for request in requests:
            room = request.max_tokens - len(request.answer.token_ids) - 1
            if room <= 0:
                continue
            if request.guesses is None:
                answers = self._of(request)
                request.guesses = Guesses(request.prompt_ids, answers, self._chances)
            request.guesses.follow(request.tokens)
            guess = request.guesses.best()
            tokens = guess.tokens(min(MOST, room)) if guess else []
            if guess and tokens:
                found.append(Draft(request, guess, tokens))
        return found

    def _seconds(self, n_rows: int, n_reading: int) -> Callable[[int], float]:
        """What a pass takes by its guessed tokens."""
        beside = n_reading * self.times.of_many
        return lambda n_guessed: self.times.at(n_rows + n_guessed) + beside

    def _of(self, request: Request) -> Answers:
        """The answers of a request's tenant; of many, the one not heard of longest is forgotten."""
        answers = self._answers.setdefault(request.tenant, Answers())
        self._answers.move_to_end(request.tenant)
        if len(self._answers) > TENANTS:
            self._answers.popitem(last=False)
        return answers


def best_sizes(
    chances: Sequence[float],
    most: Sequence[int],
    seconds: Callable[[int], float],
    n_certain: int,
) -> list[int]:
    """How many tokens of each guess run, so that most tokens a second are expected.

    Args:
        chances: Of each guess, that its next token is right if those before it are.
        most: Tokens that each has.
        seconds: What a pass takes by its guessed tokens.
        n_certain: Tokens that come of a pass anyway.
    """
    sizes, best = [0] * len(chances), [0] * len(chances)
    gains = list(chances)  # of the next token of each
    expected = float(n_certain)
    rate = GAIN * expected / seconds(0)
    for n_guessed in range(1, MOST + 1):
        open_ = [i for i in range(len(sizes)) if sizes[i] < most[i]]
        if not open_:
            break
        likeliest = max(open_, key=gains.__getitem__)
        expected += gains[likeliest]
        gains[likeliest] *= chances[likeliest]
        sizes[likeliest] += 1
        if expected / seconds(n_guessed) > rate:
            rate, best = expected / seconds(n_guessed), list(sizes)
    return best
