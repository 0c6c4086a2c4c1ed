"""Hierarchical attention: a window, the first positions, and what memory nodes point at.

A sequence is cut into pages of 64 positions. The queries of one page see the first pages (sinks),
the pages of the window before their own, and as many recalled pages between as the budget allows.
Which ones, memory nodes say: of each half of a page the mean of its keys, and the key farthest from
it. Each group of heads chooses for itself.

Beyond the trained positions recalled pages are moved up to just before the window, and memory nodes
are looked at from no farther than half of the trained positions. Scores of rotary positions depend
on distances only, so that moving keys up is turning the query back.

Axes: H query heads, G key/value heads, T queries, S keys, K head width, N pages. The native library
does the same in `hierarchy.cpp`; this is its reference, and the path of other devices.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.ops.rope import apply_rope, rope_table

PAGE = 64
"""Positions that are recalled together."""
HALF = PAGE // 2
NODES = 4
"""Memory nodes of a page: a mean and an outlier of each half."""
FEW = 16
"""New tokens up to which each chooses alone: one token is the same as several checked at once."""
EVERY = 4
"""Of a page's queries, every fourth votes."""
GROUP = 16
"""Pages whose memory nodes are looked at from one distance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """What a query sees of a long sequence, in tokens."""

    sinks: int = 128
    """First positions, always seen: they take up attention that has nowhere to go."""
    window: int = 512
    """Positions before the query's page, always seen."""
    recall: int = 2_048
    """Most that each group of heads recalls of what lies between."""
    dense: int = 8_192
    """Sequences up to this length see everything."""
    trained: int = 8_192
    """Positions that the weights were trained for."""
    fusion: float = 0.0
    """How much of a layer's votes the next layer takes over (cross-layer memory fusion)."""

    def __post_init__(self) -> None:
        for name in ("sinks", "window", "recall"):
            value = getattr(self, name)
            if value % PAGE or not 0 <= value <= 1 << 24:
                raise ConfigError(
                    f"hierarchical attention's {name} is {value}", f"use a multiple of {PAGE}"
                )
        if self.recall < PAGE:
            raise ConfigError(f"recall is {self.recall} tokens", f"use {PAGE} or more")
        if not 0.0 <= self.fusion <= 1_000.0 or self.dense < 0 or self.trained < 1:
            raise ConfigError(
                f"fusion is {self.fusion}, dense {self.dense}, trained {self.trained}",
                "none of them may be negative",
            )

    @property
    def far(self) -> int:
        """Pages from which memory nodes are looked at, at most."""
        return max(1, self.trained // 2 // PAGE)

    def window_start(self, page: int) -> int:
        """The first page of the window of queries in `page`."""
        return max(0, page - self.window // PAGE)

    def sinks_end(self, page: int) -> int:
        """The page after the sinks that queries in `page` see beside their window."""
        return min(self.sinks // PAGE, self.window_start(page))

    def is_beyond(self, page: int) -> bool:
        """Whether queries there stand where the weights were not trained for."""
        return (page + 1) * PAGE > self.trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """How queries are turned back by whole pages."""

    theta: float

    def back(self, q: Float[Tensor, "G R K"], pages: int) -> Float[Tensor, "G R K"]:
        """Rotated queries as if they stood some pages earlier."""
        if not pages:
            return q
        positions = torch.tensor([-pages * PAGE], device=q.device)
        table = rope_table(positions, q.shape[-1], self.theta, q.dtype)
        return apply_rope(q.flatten(0, 1)[None, :, None], *table)[0, :, 0].view_as(q)


def summarise(keys: Float[Tensor, "... S K"]) -> Float[Tensor, "... N 4 K"]:
    """Memory nodes of whole pages of rotated keys.

    Args:
        keys: S is a multiple of `PAGE`.

    Returns:
        For each page: mean and outlier of its first half, then of its second.
    """
    halves = torch.unflatten(keys, -2, (-1, HALF))
    total = halves.sum(-2, keepdim=True)
    apart = (halves - total / HALF).square().sum(-1, keepdim=True)
    place = apart.argmax(-2, keepdim=True)
    outlier = halves.gather(-2, place.expand(*place.shape[:-1], keys.shape[-1]))
    nodes = torch.cat(((total - outlier) / (HALF - 1), outlier), -2)
    return torch.unflatten(nodes, -3, (-1, 2)).flatten(-3, -2)


@dataclass(slots=True)
class Recalled:
    """What the queries of one page chose."""

    first: int
    """The first page that could be chosen."""
    pages: Int[Tensor, "G C"]
    """Chosen pages of each group of heads, in order."""
    votes: Float[Tensor, "G N"]
    """Expected shares of attention of all pages that could be chosen, after fusion."""


def attend_page(
    q: Float[Tensor, "H T K"],
    keys: Float[Tensor, "G S K"],
    values: Float[Tensor, "G S K"],
    memory: Float[Tensor, "G N 4 K"],
    hierarchy: Hierarchy,
    turns: Turns,
    *,
    before: Float[Tensor, " C"] | None = None,
) -> tuple[Float[Tensor, "H T K"], Recalled | None]:
    """Attention of queries that stand in one page and choose together.

    Args:
        q: Rotated queries of the last T positions, all in the last page.
        keys: Rotated keys of all positions so far.
        values: Their values.
        memory: Memory nodes of the whole pages, at least those before the window.
        hierarchy: What is seen.
        turns: How to turn queries back.
        before: Votes of the layer before, a mean over its groups, for the pages that can be chosen.

    Returns:
        The mixed values, and what was chosen; None if there was nothing to choose from.
    """
    n_groups, n_keys, width = keys.shape
    n_tokens = q.shape[1]
    page = (n_keys - 1) // PAGE
    start, sinks = hierarchy.window_start(page), hierarchy.sinks_end(page)
    n_chosen = min(hierarchy.recall // PAGE, start - sinks)
    is_beyond = hierarchy.is_beyond(page)
    rows = (q / math.sqrt(width)).reshape(n_groups, -1, width)

    window = rows @ keys[:, start * PAGE :].transpose(1, 2)
    own = torch.arange(n_keys - n_tokens, n_keys, device=q.device).repeat(len(q) // n_groups)
    unseen = torch.arange(start * PAGE, n_keys, device=q.device) > own[:, None]
    parts = [window.masked_fill(unseen, -math.inf)]
    seen = [values[:, start * PAGE :]]
    if sinks:
        moved = start - n_chosen - sinks if is_beyond else 0
        parts.append(turns.back(rows, moved) @ keys[:, : sinks * PAGE].transpose(1, 2))
        seen.append(values[:, : sinks * PAGE])
    recalled = None
    if n_chosen:
        mass = torch.cat(parts, -1).logsumexp(-1)
        voters = torch.unflatten(rows, 1, (-1, n_tokens))
        mass = torch.unflatten(mass, 1, (-1, n_tokens))
        if n_tokens >= FEW:
            chosen = own[:n_tokens] % EVERY == EVERY - 1
            voters, mass = voters[:, :, chosen], mass[:, :, chosen]
        votes = _vote(voters.flatten(1, 2), mass.flatten(1, 2), memory, page, hierarchy, turns)
        if hierarchy.fusion and before is not None:
            votes = votes + hierarchy.fusion * before
        pages = votes.topk(n_chosen, -1).indices.sort(-1).values + sinks
        recalled = Recalled(sinks, pages, votes)
        k, v = (torch.unflatten(t[:, : start * PAGE], 1, (-1, PAGE)) for t in (keys, values))
        which = pages[..., None, None].expand(-1, -1, PAGE, width)
        k, v = k.gather(1, which), v.gather(1, which).flatten(1, 2)
        parts.append(_scores(rows, k, pages, start if is_beyond else None, turns))
        seen.append(v)
    weights = torch.cat(parts, -1).softmax(-1)
    return (weights @ torch.cat(seen, 1)).reshape(q.shape), recalled


def _scores(
    rows: Tensor, keys: Tensor, pages: Tensor, start: int | None, turns: Turns
) -> Float[Tensor, "G R S"]:
    """Of recalled pages, moved up to before page `start` if it is given."""
    if start is None:
        return rows @ keys.flatten(1, 2).transpose(1, 2)
    n_chosen = pages.shape[1]
    moved = torch.arange(start - n_chosen, start, device=pages.device) - pages
    table = rope_table(-moved.flatten() * PAGE, rows.shape[-1], turns.theta, rows.dtype)
    cos, sin = (torch.unflatten(t, 0, moved.shape)[:, :, None] for t in table)
    turned = rows[:, None] * cos + torch.roll(rows, rows.shape[-1] // 2, -1)[:, None] * sin
    return (turned @ keys.transpose(2, 3)).transpose(1, 2).flatten(2)


def _vote(
    voters: Tensor, mass: Tensor, memory: Tensor, page: int, hierarchy: Hierarchy, turns: Turns
) -> Float[Tensor, "G N"]:
    """Expected share of attention of each page that can be chosen, a mean over voters."""
    first, last = hierarchy.sinks_end(page), hierarchy.window_start(page)
    parts = []
    for group in range(first // GROUP, -(-last // GROUP)):
        distance = page - group * GROUP
        moved = max(0, distance - hierarchy.far) if hierarchy.is_beyond(page) else 0
        part = memory[:, max(first, group * GROUP) : min(last, (group + 1) * GROUP)]
        parts.append(turns.back(voters, moved) @ part.flatten(1, 2).transpose(1, 2))
    many = torch.tensor([math.log(HALF - 1), 0.0] * 2, dtype=mass.dtype, device=mass.device)
    scores = torch.unflatten(torch.cat(parts, -1), -1, (-1, NODES)) + many
    pages = scores.logsumexp(-1)
    total = torch.logaddexp(pages.logsumexp(-1), mass)
    return (pages - total[..., None]).exp().mean(1)
