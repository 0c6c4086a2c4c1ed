"""One request on its way through the scheduler, and the stream in which its answer comes back."""

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deepseek.core.errors import RequestError
from deepseek.core.llm import Completion, Delta
from deepseek.engine.answer import Answer
from deepseek.engine.draft_model import Reading
from deepseek.engine.guesses import Guesses
from deepseek.engine.radix import Miss
from deepseek.model.pages import PagedSequence
from deepseek.ops.native_model import NO_ADAPTER


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """Other tokens that may come in place of the guessed ones, for the time of a pass."""

    tokens: list[int]
    sequence: PagedSequence
    """Shares the pages of what was run before."""


@dataclass(slots=True, eq=False)
class Request:
    """A prompt, its answer so far, and the pages of both while it runs."""

    prompt_ids: list[int]
    answer: Answer
    max_tokens: int
    priority: int = 0
    """Higher ones go first."""
    on_progress: Callable[[int, int], None] | None = None
    """Told of prompt tokens read and to read, by whoever reads the stream."""
    on_end: Callable[[], None] | None = None
    """Called when the last piece can be read, by the thread that made it."""
    adapter: int = NO_ADAPTER
    """The number of the one that it runs with."""
    order: tuple[int, int] = (0, 0)
    """Lower ones go first; given by the scheduler."""
    cancelled: bool = False
    sequence: PagedSequence | None = None
    """Its pages; None: it waits."""
    n_reused: int = 0
    """Tokens of the prompt that others had read."""
    miss: Miss | None = None
    """Why there were no more of them."""
    n_preempted: int = 0
    tenant: str = ""
    """Whose it is: guesses come from answers to the same one only."""
    n_ahead: int = 0
    """Last tokens that run with the one before them and count if they are chosen: a constraint
    leaves no other choice, or they are guessed."""
    n_guessed: int = 0
    """The last of these, which are guessed."""
    by_model: bool = False
    """Whether a draft model guessed them."""
    branches: list[Branch] = field(default_factory=list)
    """Each begins with another token than these."""
    guesses: Guesses | None = None
    reading: Reading | None = None
    """What a draft model has read of it."""
    n_drafted: int = 0
    """Guessed tokens that ran so far."""
    n_accepted: int = 0
    """Of these, tokens that were chosen."""
    fetch_seconds: float = 0.0
    """What it took to look for its beginning on a disk."""
    started: float = 0.0
    answering: float = 0.0
    """When the prompt had been read."""
    tokens: list[int] = field(init=False)
    """Of prompt and answer."""
    pieces: "queue.SimpleQueue[Piece]" = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt_ids)

    @property
    def n_pending(self) -> int:
        """Tokens that must run before the next one can be chosen."""
        return len(self.tokens) - (self.sequence.length if self.sequence is not None else 0)

    @property
    def is_answering(self) -> bool:
        """Whether the next tokens of its answer come of the next pass."""
        return self.n_pending == 1 + self.n_ahead

    @property
    def ahead(self) -> list[int]:
        """The tokens that run ahead."""
        return self.tokens[len(self.tokens) - self.n_ahead :]

    @property
    def n_forced(self) -> int:
        """The first of them, which a constraint leaves no choice for."""
        return self.n_ahead - self.n_guessed

    def run_ahead(self, tokens: Sequence[int]) -> None:
        """Let tokens that must follow run with the one before them."""
        self.tokens += tokens
        self.n_ahead = len(tokens)

    def guess(self, tokens: Sequence[int], *, by_model: bool = False) -> None:
        """Let tokens that may follow run behind these."""
        self.tokens += tokens
        self.n_ahead += len(tokens)
        self.n_guessed, self.by_model = len(tokens), by_model

    def branch_off(self, tokens: list[int]) -> None:
        """Let others run beside the guessed ones."""
        assert self.sequence is not None
        self.branches.append(Branch(tokens, self.sequence.fork(self.sequence.length)))

    def take_branch(self, branch: Branch) -> None:
        """Go on with a branch, whose tokens have run, in place of the guessed ones."""
        assert self.sequence is not None
        n_before = len(self.tokens) - self.n_guessed
        self.tokens[n_before:] = branch.tokens
        self.n_ahead = self.n_forced + len(branch.tokens)
        self.n_guessed, self.by_model = len(branch.tokens), False
        self.branches.remove(branch)
        self.sequence.release()
        self.sequence = branch.sequence

    def drop_branches(self) -> None:
        """Do without all of them."""
        for branch in self.branches:
            branch.sequence.release()
        self.branches.clear()

    def fitting(self, tokens: Sequence[int]) -> list[int]:
        """Of tokens that may be guessed, those up to the first that the constraint forbids."""
        forced = self.ahead[: self.n_forced]
        return self.answer.fitting([*forced, *tokens])[len(forced) :]

    def drop_guesses(self) -> None:
        """Do without the guessed ones."""
        n_forced = self.n_forced
        self.drop_ahead(n_forced)
        self.n_ahead = n_forced

    def drop_ahead(self, n_kept: int = 0) -> None:
        """Do without the tokens that run ahead, but for the first ones."""
        del self.tokens[len(self.tokens) - self.n_ahead + n_kept :]
        self.n_ahead, self.n_guessed, self.by_model = 0, 0, False
        self.drop_branches()

    def go_back(self, n_right: int) -> None:
        """Keep only the first of the tokens that ran ahead, and what was computed of them."""
        self.drop_ahead(n_right)
        assert self.sequence is not None
        self.sequence.truncate(len(self.tokens))

    @property
    def is_reading(self) -> bool:
        """Whether some of its prompt must still be read."""
        return self.sequence is not None and self.sequence.length < len(self.prompt_ids)

    def end(self, outcome: "Delta | Exception") -> None:
        """Give the last piece: the completion, or why there is none."""
        self.pieces.put(outcome)
        if self.on_end is not None:
            self.on_end()

    def seconds(self) -> tuple[float, float]:
        """What reading the prompt and answering took until now, without the time it waited."""
        now = time.perf_counter()
        answering = self.answering or now
        return answering - (self.started or answering), now - answering


@dataclass(frozen=True, slots=True)
class Progress:
    """Prompt tokens read and to read."""

    n_read: int
    n_tokens: int


Piece = Delta | Progress | Exception


class AnswerStream:
    """The pieces of one answer as they come. Closing it, or losing it, cancels the request."""

    def __init__(self, request: Request, cancel: Callable[[Request], None]) -> None:
        self.request = request
        self._cancel = cancel
        self._ended = False

    def __iter__(self) -> "AnswerStream":
        return self

    def __next__(self) -> Delta:
        """Wait for the next piece; the last one carries the completion.

        Raises:
            Exception: What ended the request.
        """
        while not self._ended:
            piece = self.request.pieces.get()
            if isinstance(piece, Progress):
                if self.request.on_progress is not None:
                    self.request.on_progress(piece.n_read, piece.n_tokens)
                continue
            self._ended = isinstance(piece, Exception) or piece.completion is not None
            if isinstance(piece, Exception):
                raise piece
            return piece
        raise StopIteration

    def result(self) -> Completion:
        """Wait for the whole answer.

        Raises:
            RequestError: The stream was read or closed before.
        """
        for delta in self:
            if delta.completion is not None:
                return delta.completion
        raise RequestError("this answer was read or closed already", "ask again")

    def cancel(self) -> None:
        """End the answer soon: what is there of it comes as a completion that says so."""
        if not self._ended:
            self._cancel(self.request)

    def close(self) -> None:
        """Cancel the request, and read no more."""
        self.cancel()
        self._ended = True

    def __del__(self) -> None:
        self.close()
