"""The operators of a run in passes over the documents: a global one ends a pass.

In its pass it only scores; when all shards are scored it settles what it must know of all, and
decides at the beginning of the next pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.data.quality.operator import Operator


@dataclass(frozen=True, slots=True)
class Pass:
    """What is done with each shard at once; numbers are places among the operators."""

    decides: int | None
    """The global operator that has settled before this pass."""
    runs: tuple[int, ...]
    """Operators that judge a document alone."""
    scores: int | None
    """The global operator that settles after this pass."""
    in_pool: bool
    """Whether worker processes may do it."""


def passes_of(operators: Sequence[Operator]) -> list[Pass]:
    """All passes, in order; at least one."""
    found: list[Pass] = []
    decides: int | None = None
    runs: list[int] = []
    in_pool = True
    for number, operator in enumerate(operators):
        if runs and operator.in_pool != in_pool:
            found.append(Pass(decides, tuple(runs), None, in_pool))
            decides, runs = None, []
        in_pool = operator.in_pool
        if operator.is_global:
            found.append(Pass(decides, tuple(runs), number, in_pool))
            decides, runs, in_pool = number, [], True
        else:
            runs.append(number)
    found.append(Pass(decides, tuple(runs), None, in_pool))
    return found
