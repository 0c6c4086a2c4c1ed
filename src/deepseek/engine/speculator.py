"""Speculative decoding: whose next tokens are guessed, and how many, so that passes gain by it.

Guesses run in the same pass as the token before them, and each is kept if it is the one that the
request chooses anyway, by its own sampler: an answer is the same with and without them, whatever
the temperature (Leviathan et al. 2023, for guesses that are certain of themselves). More rows make
a pass slower: tokens are guessed as long as they save more time in later passes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace

import numpy as np
from jaxtyping import Float

from deepseek.engine.draft_model import MOST, DraftModel
from deepseek.engine.guesses import Answers, Chances, Guess, Guesses, Kind
from deepseek.engine.pass_times import LEARNING, ROWS, PassTimes
from deepseek.engine.request import Request

GAIN = 0.03
"""Of the time of a pass without guesses, what they must be expected to save."""
LEAST_CHANCE = 0.01
BRANCHES = 3
"""Other guesses that may run beside one."""
DRAFT_MODEL: Kind = ("draft model", 0)
"""The chance that it is right is the same whatever was before."""
TENANTS = 64
"""Tenants whose answers are remembered."""

Seconds = Float[np.ndarray, " _"]


@dataclass(slots=True)
class Draft:
    """Tokens that may be guessed for a request."""

    request: Request
    chances: Sequence[float]
    """That each is right, if those before it are."""
    tokens: Sequence[int] = ()
    """None: the draft model is asked for them."""
    cost: float = 0.0
    """Seconds that each takes before it runs."""
    others: Sequence[Guess] = ()
    """What may come in place of it: each begins with another token."""


class Speculator:
    """Guesses for the requests of one scheduler."""

    def __init__(self, draft_model: DraftModel | None = None) -> None:
        """Begin; where the text does not guess, a draft model does, if there is one."""
        self.times = PassTimes()
        self._fork_seconds = 0.0
        """What a branch takes beside its rows: its last page is a copy."""
        self._draft_model = draft_model
        self._chances = Chances()
        self._answers: OrderedDict[str, Answers] = OrderedDict()

    def begin(self, request: Request) -> None:
        """Learn a request's prompt, before it is read: an answer should not wait for that."""
        if request.guesses is None:
            answers = self._of(request)
            request.guesses = Guesses(request.prompt_ids, answers, self._chances)

    def draft(self, requests: Sequence[Request], n_rows: int, n_reading: int) -> None:
        """Put guesses behind the tokens of requests that wait for their next one only.

        Args:
            requests: Those.
            n_rows: Rows of the pass without guesses, except of prompts.
            n_reading: Of prompts.
        """
        if not self.times.is_known:  # the first pass tells
            return
        possible = [some for request in requests if (some := self._possible(request))]
        if not possible:
            return
        taken = self.times.beginning_at(n_rows, MOST + 1) + n_reading * self.times.of_many

        def saved(draft: Draft) -> float:
            return best_sizes([draft], taken, n_rows)[0]

        drafts = [some[0] if len(some) == 1 else max(some, key=saved) for some in possible]
        sizes = best_sizes(drafts, taken, n_rows)[1]
        chosen = [(draft, size) for draft, size in zip(drafts, sizes, strict=True) if size]
        self._put(chosen)
        self._branch(chosen, taken, n_rows)

    def learn(self, request: Request, n_right: int) -> None:
        """Take in how many of the tokens that ran ahead were chosen."""
        n_right = max(0, n_right - request.n_forced)
        if request.by_model and request.guesses is not None:
            n_tried = min(request.n_guessed, n_right + 1)
            request.guesses.learn(DRAFT_MODEL, n_right, n_tried)
        request.n_accepted += n_right

    def remember(self, request: Request) -> None:
        """Take in a whole answer, for requests to come."""
        self._of(request).add(request.answer.token_ids)

    def note(self, n_rows: int, seconds: float, n_branches: int = 0) -> None:
        """Take in what a pass took in which nothing was read."""
        if n_rows > ROWS[-1]:
            return
        if n_branches:
            each = (seconds - self.times.at(n_rows)) / n_branches
            self._fork_seconds += LEARNING * (max(each, 0.0) - self._fork_seconds)
        else:
            self.times.note(n_rows, seconds)

    def leave(self, request: Request) -> None:
        """Give back what the draft model holds of a request."""
        if request.reading is not None and self._draft_model is not None:
            self._draft_model.leave(request.reading)
            request.reading = None

    def _possible(self, request: Request) -> list[Draft]:
        """What may be guessed for a request, and by whom."""
        n_left = request.max_tokens - len(request.answer.token_ids) - request.n_ahead - 1
        room, guesses, found = min(MOST, n_left), request.guesses, []
        if room <= 0 or guesses is None:
            return []
        guesses.follow(request.tokens)
        said = guesses.all(room)
        if said:
            best = max(said, key=lambda guess: guess.expected)
            tokens = request.fitting(best.tokens)
            if tokens:
                others = _others(said, tokens[0])
                found.append(Draft(request, best.chances[: len(tokens)], tokens, others=others))
        if self._draft_model is not None:
            if not self._draft_model.seconds:
                self._draft_model.measure()
            chances = [guesses.chance(DRAFT_MODEL)] * room
            found.append(Draft(request, chances, cost=self._draft_model.seconds))
        return found

    def _put(self, chosen: Sequence[tuple[Draft, int]]) -> None:
        """Let guesses run ahead; the draft model makes those that are not there yet."""
        asked = [(draft.request, size) for draft, size in chosen if not draft.tokens]
        if asked:
            assert self._draft_model is not None
            for request, _ in asked:
                request.reading = request.reading or self._draft_model.read(request.tokens)
            wanted = [(r.reading, r.tokens, size) for r, size in asked if r.reading is not None]
            for (request, _), tokens in zip(asked, self._draft_model.guess(wanted), strict=True):
                if tokens:
                    request.guess(request.fitting(tokens), by_model=True)
        for draft, size in chosen:
            if draft.tokens:
                draft.request.guess(draft.tokens[:size])

    def _branch(self, chosen: Sequence[tuple[Draft, int]], taken: Seconds, n_certain: int) -> None:
        """Let other guesses run beside those that were chosen, where that saves more time."""
        n_guessed = sum(size for _, size in chosen)
        for draft, size in chosen:
            request, all_wrong = draft.request, 1.0 - draft.chances[0]
            n_again = request.n_pending - size  # a branch runs the tokens before it itself
            for other in draft.others[:BRANCHES]:
                start = n_guessed + n_again
                chances = [other.chances[0] * all_wrong, *other.chances[1 : MOST - start]]
                worth = worth_of(chances, taken, n_certain)
                spent = taken[start + 1 :] - taken[n_guessed] + self._fork_seconds
                saved, n_best = _best_size(worth, spent)
                tokens = request.fitting(other.tokens[:n_best])
                if tokens and saved > GAIN * taken[0]:
                    request.branch_off(tokens)
                    n_guessed = start + len(tokens)
                    all_wrong *= 1.0 - other.chances[0]

    def _of(self, request: Request) -> Answers:
        """The answers of a request's tenant; of many, the one not heard of longest is forgotten."""
        answers = self._answers.setdefault(request.tenant, Answers())
        self._answers.move_to_end(request.tenant)
        if len(self._answers) > TENANTS:
            self._answers.popitem(last=False)
        return answers


def best_sizes(drafts: Sequence[Draft], taken: Seconds, n_certain: int) -> tuple[float, list[int]]:
    """How many tokens of each draft run, so that most time is saved; and what that is.

    Args:
        drafts: One for each request.
        taken: Seconds of passes with 0, 1, … guessed tokens.
        n_certain: Tokens that come of a pass anyway.
    """
    worth = [worth_of(draft.chances[:MOST], taken, n_certain) - draft.cost for draft in drafts]
    if len(drafts) == 1:
        most, n = _best_size(worth[0], taken[1:] - taken[0])
        return (most, [n]) if most > GAIN * taken[0] else (0.0, [0])
    sizes, best = [0] * len(worth), [0] * len(worth)
    saved, most = 0.0, float(GAIN * taken[0])
    open_ = [(-float(tokens[0]), i) for i, tokens in enumerate(worth)]
    heapify(open_)
    for n_guessed in range(1, MOST + 1):
        if not open_:
            break
        of_next, i = open_[0]
        saved -= of_next + float(taken[n_guessed] - taken[n_guessed - 1])
        sizes[i] += 1
        if sizes[i] < len(worth[i]):
            heapreplace(open_, (-float(worth[i][sizes[i]]), i))
        else:
            heappop(open_)
        if saved > most:
            most, best = saved, list(sizes)
    return (most, best) if any(best) else (0.0, best)


def worth_of(chances: Sequence[float], taken: Seconds, n_certain: int) -> Seconds:
    """Seconds that each token of a draft saves on average, if it runs with those before it.

    A token that comes now need not come of a later pass. What it would take there depends on how
    well that one would guess: it pays to wait where a guess is open and those behind it are not,
    since they will be cheap when they are sure.

    Args:
        chances: Of each token, if those before it are right.
        taken: Seconds of passes with 0, 1, … guessed tokens.
        n_certain: Tokens that come of a pass anyway.
    """
    n, n_sizes = len(chances), len(taken)
    # Where the draft ends, the text is expected to go on as it does there.
    known = np.array([1.0, *chances, *[chances[-1]] * n_sizes])
    all_right = np.maximum(known, LEAST_CHANCE).cumprod()
    sums = all_right.cumsum()
    places, sizes = np.arange(n)[:, None], np.arange(n_sizes)
    expected = n_certain + (sums[places + sizes] - sums[:n, None]) / all_right[:n, None]
    rates = (expected / taken).max(1)
    found: Seconds = all_right[1 : n + 1] / rates
    return found


def _best_size(worth: Seconds, spent: Seconds) -> tuple[float, int]:
    """What the best number of a draft's tokens saves, and how many these are.

    Args:
        worth: Seconds that each saves.
        spent: More seconds that a pass takes with 1, 2, … of them.
    """
    n = min(len(worth), len(spent))
    if not n:
        return 0.0, 0
    saved = worth[:n].cumsum() - spent[:n]
    best = int(saved.argmax())
    return float(saved[best]), best + 1


def _others(guesses: Sequence[Guess], first: int) -> list[Guess]:
    """Guesses that begin with other tokens, of each the best one, and the best first."""
    by_first: dict[int, Guess] = {}
    for guess in sorted(guesses, key=lambda guess: guess.expected, reverse=True):
        if guess.tokens[0] != first:
            by_first.setdefault(guess.tokens[0], guess)
    return list(by_first.values())
