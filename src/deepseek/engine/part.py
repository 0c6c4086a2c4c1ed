"""A request's part in one pass of the model."""

from dataclasses import dataclass

from deepseek.engine.request import Branch, Progress, Request
from deepseek.model.pages import Missing, PagedSequence


@dataclass(frozen=True, slots=True)
class Part:
    """How many new tokens of a request run in a pass, or of one of its branches."""

    request: Request
    size: int
    branch: Branch | None = None

    @property
    def sequence(self) -> PagedSequence:
        """The request's, or the branch's."""
        if self.branch is not None:
            return self.branch.sequence
        assert self.request.sequence is not None
        return self.request.sequence

    @property
    def tokens(self) -> list[int]:
        """The new ones."""
        tokens, start = self.request.tokens, self.sequence.length
        if self.branch is not None:
            return tokens[start : len(tokens) - self.request.n_guessed] + self.branch.tokens
        return tokens[start : start + self.size]

    @property
    def n_guessed(self) -> int:
        """The last of them, which are guessed."""
        return self.request.n_guessed if self.branch is None else len(self.branch.tokens)

    @property
    def n_choosing(self) -> int:
        """Of those that ran, the last ones, behind each of which a token may be chosen."""
        if self.branch is not None:
            return len(self.branch.tokens)
        return 0 if self.request.n_pending else self.request.n_ahead + 1

    @property
    def missing(self) -> Missing:
        """Pages that they take."""
        return self.sequence.missing(self.size)

    def report(self) -> None:
        """Tell how far a prompt was read."""
        request, start = self.request, self.sequence.length
        if request.is_reading and not request.n_preempted:
            n_tokens = len(request.prompt_ids) - request.n_reused
            request.pieces.put(Progress(start - request.n_reused, n_tokens))


def parts_of(request: Request, size: int) -> list[Part]:
    """So many new tokens of a request, and those of its branches."""
    n_before = request.n_pending - request.n_guessed
    branches = [Part(request, n_before + len(b.tokens), b) for b in request.branches]
    return [Part(request, size), *branches]
