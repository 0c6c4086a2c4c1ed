"""Speculative decoding: whose next tokens are guessed, and how many, so that passes gain by it.

Guesses run in the same pass as the token before them, and each is kept if it is the one that the
request chooses anyway, by its own sampler: an answer is the same with and without them, whatever
the temperature (Leviathan et al. 2023, for guesses that are certain of themselves). More rows make
a pass slower: tokens are guessed as long as they make up for it.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepseek.engine.draft_model import MOST, DraftModel
from deepseek.engine.guesses import Answers, Chances, Guesses, Kind
from deepseek.engine.pass_times import ROWS, PassTimes
from deepseek.engine.request import Request

GAIN = 1.03
"""By how much more tokens a second are expected of a pass with guesses than without."""
DRAFT_MODEL: Kind = ("draft model", 3)
"""The chance that it is right is the same whatever was before."""
TENANTS = 64
"""Tenants whose answers are remembered."""


@dataclass(slots=True)
class Draft:
    """Tokens that may be guessed for a request."""

    request: Request
    kind: Kind
    chance: float
    """That each is right, if those before it are."""
    most: int
    cost: float = 0.0
    """Seconds that each takes before it runs."""
    tokens: Sequence[int] = ()
    """None: the draft model is asked for them."""


class Speculator:
    """Guesses for the requests of one scheduler."""

    def __init__(self, draft_model: DraftModel | None = None) -> None:
        """Begin; where the text does not guess, a draft model does, if there is one."""
        self.times = PassTimes()
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
        beside = n_reading * self.times.of_many

        def seconds(n_guessed: int) -> float:
            return self.times.at(n_rows + n_guessed) + beside

        def rate(draft: Draft) -> float:
            return best_sizes([draft], seconds, n_rows)[0]

        drafts = [some[0] if len(some) == 1 else max(some, key=rate) for some in possible]
        sizes = best_sizes(drafts, seconds, n_rows)[1]
        self._put([(draft, size) for draft, size in zip(drafts, sizes, strict=True) if size])

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
        if n_rows <= ROWS[-1]:
            self.times.note(n_rows, seconds)

    def leave(self, request: Request) -> None:
        """Give back what the draft model holds of a request."""
        if request.reading is not None and self._draft_model is not None:
            self._draft_model.leave(request.reading)
            request.reading = None

    def _possible(self, request: Request) -> list[Draft]:
        """What may be guessed for a request, and by whom."""
        room = min(MOST, request.max_tokens - len(request.answer.token_ids) - 1)
        guesses, found = request.guesses, []
        if room <= 0 or guesses is None:
            return []
        guesses.follow(request.tokens)
        guess = guesses.best()
        tokens = request.answer.fitting(guess.tokens(room)) if guess else []
        if guess and tokens:
            found.append(Draft(request, guess.kind, guess.chance, len(tokens), tokens=tokens))
        if self._draft_model is not None:
            if not self._draft_model.seconds:
                self._draft_model.measure()
            chance = guesses.chance(DRAFT_MODEL)
            found.append(Draft(request, DRAFT_MODEL, chance, room, self._draft_model.seconds))
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
                    request.run_ahead(request.answer.fitting(tokens), DRAFT_MODEL)
        for draft, size in chosen:
            if draft.tokens:
                draft.request.run_ahead(draft.tokens[:size], draft.kind)

    def _of(self, request: Request) -> Answers:
        """The answers of a request's tenant; of many, the one not heard of longest is forgotten."""
        answers = self._answers.setdefault(request.tenant, Answers())
        self._answers.move_to_end(request.tenant)
        if len(self._answers) > TENANTS:
            self._answers.popitem(last=False)
        return answers


def best_sizes(
    drafts: Sequence[Draft], seconds: Callable[[int], float], n_certain: int
) -> tuple[float, list[int]]:
    """How many tokens of each draft run, so that most tokens a second are expected; and these.

    Args:
        drafts: One for each request.
        seconds: What a pass takes by its guessed tokens.
        n_certain: Tokens that come of a pass anyway.
    """
    sizes, best = [0] * len(drafts), [0] * len(drafts)
    gains = [draft.chance for draft in drafts]  # of the next token of each
    expected, cost = float(n_certain), 0.0
    rate = GAIN * expected / seconds(0)
    for n_guessed in range(1, MOST + 1):
        open_ = [i for i, draft in enumerate(drafts) if sizes[i] < draft.most]
        if not open_:
            break
        likeliest = max(open_, key=gains.__getitem__)
        expected += gains[likeliest]
        cost += drafts[likeliest].cost
        gains[likeliest] *= drafts[likeliest].chance
        sizes[likeliest] += 1
        if expected / (seconds(n_guessed) + cost) > rate:
            rate, best = expected / (seconds(n_guessed) + cost), list(sizes)
    return rate, best
