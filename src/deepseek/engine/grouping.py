"""Which requests are served together: neighbours that share a long beginning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

MIN_SHARED = 16
"""A shorter common beginning is not worth a part of its own."""


@dataclass(frozen=True, slots=True)
class Group:
    """Requests `start` to `stop` share their first `n_shared` tokens."""

    start: int
    stop: int
    n_shared: int


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Leading tokens that two sequences share."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


def group_by_beginning(
    prompts: Sequence[Sequence[int]], adapters: Sequence[int] | None = None
) -> Iterator[Group]:
    """Cut a list of prompts where it pays to read a longer beginning for fewer of them.

    Neighbours stay together as long as the next prompt keeps at least half of the beginning
    that the group shares. Each prompt keeps one token of its own. With different adapters nothing
    is shared, however the prompts begin.
    """
    if adapters is not None and len(set(adapters)) > 1:
        # An adapter's number before the tokens is a beginning that only its own prompts have.
        marked = [[-2 - a, *prompt] for a, prompt in zip(adapters, prompts, strict=True)]
        for group in group_by_beginning(marked):
            yield replace(group, n_shared=max(0, group.n_shared - 1))
        return
    start, shared = 0, len(prompts[0]) - 1 if prompts else 0
    for i in range(1, len(prompts)):
        kept = min(shared, common_length(prompts[i - 1], prompts[i]), len(prompts[i]) - 1)
        if i - start == 1:  # the group has shared nothing yet
            must_part = _joins_next(prompts, i, kept)
        else:
            must_part = shared >= MIN_SHARED and kept < shared / 2
        if must_part:
            yield _group(prompts, start, i, shared)
            start, kept = i, len(prompts[i]) - 1
        shared = kept
    if prompts:
        yield _group(prompts, start, len(prompts), shared)


def _joins_next(prompts: Sequence[Sequence[int]], i: int, kept: int) -> bool:
    """Whether prompt i has more in common with the one after it than with the one before."""
    if i + 1 >= len(prompts):
        return False
    following = common_length(prompts[i], prompts[i + 1])
    return following >= MIN_SHARED and kept < following / 2


def _group(prompts: Sequence[Sequence[int]], start: int, stop: int, shared: int) -> Group:
    shared = min(shared, min(len(p) for p in prompts[start:stop]) - 1)
    return Group(start, stop, shared if shared >= MIN_SHARED and stop - start > 1 else 0)
