"""A request's part in one pass of the model."""

from dataclasses import dataclass

from deepseek.engine.request import Progress, Request
from deepseek.model.pages import Missing, PagedSequence


@dataclass(frozen=True, slots=True)
class Part:
    """How many new tokens of a request run in a pass."""

    request: Request
    size: int

    @property
    def sequence(self) -> PagedSequence:
        """The request's."""
        assert self.request.sequence is not None
        return self.request.sequence

    @property
    def tokens(self) -> list[int]:
        """The new ones."""
        start = self.sequence.length
        return self.request.tokens[start : start + self.size]

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
