"""Hierarchical attention: a window, the first positions, and what memory nodes point at.

A sequence is cut into pages of 64 positions. Queries see the first pages (sinks), the pages of the
window before their own, and as many recalled pages between as the budget allows. Which ones, memory
nodes say: of each half of a page the mean of its keys, and the key farthest from it. Four queries
that follow each other choose together, and each group of heads for itself.

The last tokens of a prompt ask, and so do those that are generated: each chooses for itself, and by
the keys instead of memory nodes. What reads may miss a page now and then, a question must not.

Beyond the positions that the weights reach, recalled pages are moved up to just before the window,
and memory nodes are looked at from distances that grow with the logarithm. Scores of rotary
positions depend on distances only, so that moving keys up is turning the query back.

Axes: H query heads, G key/value heads, R of the first for each of the second, T queries, B blocks
of queries that choose together, Q queries of all heads in a block, S keys, K head width, N pages,
C chosen pages, M memory nodes of a page. The native library does the same in `hierarchy.cpp`; this
is its reference, and the path of other devices.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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
TOGETHER = 4
"""Queries that choose together. More of them outvote the few that ask for something."""
QUESTION = 128
"""Last tokens of a prompt that ask."""
NEVER = 1 << 62
"""A position behind all others: nothing asks."""
GROUP = 16
"""Pages whose memory nodes are looked at from one distance."""
NEAR = 16
"""Pages up to which that is the true distance."""
DOUBLING = 8
"""Pages that it grows by for each doubling of the true one."""


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
    reach: int = 4_096
    """Positions up to which pages stay where they are; later queries see them moved up."""
    fusion: float = 1.0
    """How much of a layer's votes the next layer takes over (cross-layer memory fusion). Half of
    what is recalled a layer's own votes choose, the other half these; 0: all its own."""
    look: int = 32_768
    """Most positions whose memory nodes a token that reads looks at. Of more, the mean query of all
    tokens of its page says at which: looking would take longer than all else."""
    scan: int = 131_072
    """Most positions whose keys a token that asks looks at. Beyond, memory nodes say which, in
    every third layer; in the others, what the layer before found (with fusion 0: in none)."""

    def __post_init__(self) -> None:
        for name in ("sinks", "window", "recall", "look", "scan"):
            value = getattr(self, name)
            if value % PAGE or not 0 <= value <= 1 << 24:
                raise ConfigError(
                    f"hierarchical attention's {name} is {value}", f"use a multiple of {PAGE}"
                )
        if self.recall < PAGE:
            raise ConfigError(f"recall is {self.recall} tokens", f"use {PAGE} or more")
        if not 0.0 <= self.fusion <= 1_000.0 or self.dense < 0 or self.reach < 1:
            raise ConfigError(
                f"fusion is {self.fusion}, dense {self.dense}, reach {self.reach}",
                "none of them may be negative",
            )

    @property
    def looked_pages(self) -> int:
        """`look` in pages; some more than are recalled, since groups of pages may be cut off."""
        return max(self.look, self.recall + 3 * GROUP * PAGE) // PAGE

    @property
    def scanned_pages(self) -> int:
        """`scan` in pages, at least as many as are recalled."""
        return max(self.scan, self.recall) // PAGE

    @property
    def n_dense(self) -> int:
        """Positions that see everything before them."""
        return self.dense // PAGE * PAGE

    def describe(self) -> str:
        """For people."""
        return (
            f"dense in the first {self.dense:,} tokens; later ones see the {self.window:,} before "
            f"them, the first {self.sinks:,}, and {self.recall:,} that each group of heads recalls"
        )

    def window_start(self, page: int) -> int:
        """The first page of the window of queries in `page`."""
        return max(0, page - self.window // PAGE)

    def sinks_end(self, page: int) -> int:
        """The page after the sinks that queries in `page` see beside their window."""
        return min(self.sinks // PAGE, self.window_start(page))

    def n_recalled(self, page: int) -> int:
        """Pages that queries in `page` recall."""
        return min(self.recall // PAGE, self.window_start(page) - self.sinks_end(page))

    def is_beyond(self, page: int) -> bool:
        """Whether queries there stand where the weights do not reach."""
        return (page + 1) * PAGE > self.reach


def looked_from(distance: int) -> int:
    """The distance from which a memory node that many pages back is looked at, beyond the reach."""
    if distance <= NEAR:
        return distance
    return NEAR + math.floor(DOUBLING * math.log2(distance / NEAR))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """How queries are turned back by whole pages."""

    theta: float

    def back(self, q: Float[Tensor, "*axes K"], pages: int) -> Float[Tensor, "*axes K"]:
        """Rotated queries as if they stood some pages earlier."""
        if not pages:
            return q
        positions = torch.tensor([-pages * PAGE], device=q.device)
        table = rope_table(positions, q.shape[-1], self.theta, q.dtype)
        return apply_rope(q.reshape(1, -1, 1, q.shape[-1]), *table).view_as(q)


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


@runtime_checkable
class Router(Protocol):
    """Makes memory nodes, and says from them how much attention each page will get."""

    def remember(
        self, layer: int, keys: Float[Tensor, "G S K"], first: int
    ) -> Float[Tensor, "G N M K"]:
        """Memory nodes of whole pages of rotated keys, the first of them page `first`."""
        ...

    def look(
        self, layer: int, rows: Float[Tensor, "G B Q K"], nodes: Float[Tensor, "G N M K"]
    ) -> Float[Tensor, "G B Q N"]:
        """What a query's scores of each page are expected to be: the logarithm of the sum of their
        exponentials. Rows are rotated and scaled queries, in each block head by head."""
        ...


class NodeRouter:
    """The router without training: the scores of means and outliers, as many times as they stand
    for keys."""

    def remember(
        self, layer: int, keys: Float[Tensor, "G S K"], first: int
    ) -> Float[Tensor, "G N M K"]:
        """Mean and outlier of each half page, the same in all layers and places."""
        return summarise(keys)

    def look(
        self, layer: int, rows: Float[Tensor, "G B Q K"], nodes: Float[Tensor, "G N M K"]
    ) -> Float[Tensor, "G B Q N"]:
        """The same in all layers."""
        scores = node_scores(rows, nodes)
        many = [math.log(HALF - 1), 0.0] * (NODES // 2)
        return (scores + scores.new_tensor(many)).logsumexp(-1)


UNTRAINED = NodeRouter()


def node_scores(
    rows: Float[Tensor, "G B Q K"], nodes: Float[Tensor, "G N M K"]
) -> Float[Tensor, "G B Q N M"]:
    """Products of queries and memory nodes."""
    scores = rows @ nodes[:, None].flatten(2, 3).transpose(2, 3)
    return torch.unflatten(scores, -1, nodes.shape[1:3])


SCANNING = 3
"""Of so many layers one looks at the memory nodes of all pages for tokens that ask about too many;
the others look at keys where the layer before found most. Layers find much the same pages."""
TIE = 1e-6
"""What fused votes count beside those of the layer before, of which most are 0."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What a layer hands on to the next: means over its groups, of pages that can be chosen."""

    fused: Float[Tensor, "B N"]
    """Votes with those of the layers before."""
    own: Float[Tensor, "B N"]
    """The layer's own."""

    def candidates(self, n: int) -> Int[Tensor, "B C"]:
        """So many pages that the layer found most in."""
        return (self.own + TIE * self.fused).topk(n, -1).indices.sort(-1).values


@dataclass(slots=True)
class Recalled:
    """What the blocks of queries in one page chose."""

    first: int
    """The first page that could be chosen."""
    pages: Int[Tensor, "G B C"]
    """Chosen pages of each group of heads and block, in order."""
    votes: Float[Tensor, "G B N"]
    """Expected shares of attention of all pages that could be chosen, with those of the layers
    before."""
    own: Float[Tensor, "G B N"]
    """The same without them."""

    @property
    def carried(self) -> Carried:
        """For the next layer."""
        return Carried(self.votes.mean(0), self.own.mean(0))


def attend_page(
    q: Float[Tensor, "H T K"],
    keys: Float[Tensor, "G S K"],
    values: Float[Tensor, "G S K"],
    memory: Float[Tensor, "G P M K"],
    hierarchy: Hierarchy,
    turns: Turns,
    *,
    asks: bool = False,
    before: Carried | None = None,
    router: Router = UNTRAINED,
    layer: int = 0,
) -> tuple[Float[Tensor, "H T K"], Recalled | None]:
    """Attention of queries that stand in one page.

    Args:
        q: Rotated queries of the last T positions, all in the last page.
        keys: Rotated keys of all positions so far.
        values: Their values.
        memory: Memory nodes of the whole pages, at least those before the window.
        hierarchy: What is seen.
        turns: How to turn queries back.
        asks: Each query chooses alone, and by keys. Else those choose together whose positions
            have the same quotient by `TOGETHER`.
        before: Of the layer before.
        router: What made the memory nodes.
        layer: Which layer this is, for the router, and of those that look at all memory nodes.

    Returns:
        The mixed values, and what was chosen; None if there was nothing to choose from.
    """
    n_groups, n_keys, width = keys.shape
    page = (n_keys - 1) // PAGE
    start, sinks = hierarchy.window_start(page), hierarchy.sinks_end(page)
    n_chosen = hierarchy.n_recalled(page)
    is_beyond = hierarchy.is_beyond(page)
    together = 1 if asks else TOGETHER
    blocks = Blocks(len(q) // n_groups, n_keys - q.shape[1], n_keys, together)
    rows = blocks.split(q / math.sqrt(width), n_groups)

    parts = seen_scores(rows, keys, blocks.positions, hierarchy, turns)
    seen = [values[:, None, start * PAGE :]]
    if sinks:
        seen.append(values[:, None, : sinks * PAGE])
    recalled = None
    if n_chosen:
        mass = torch.cat(parts, -1).logsumexp(-1)
        ballot = Ballot(blocks, mass, None if before is None else before.fused, hierarchy)

        def look(queries: Tensor) -> list[Tensor]:
            turned = far_rows(queries, page, hierarchy, turns)
            return [router.look(layer, there, memory[:, part]) for part, there in turned]

        if asks:
            if start - sinks > hierarchy.scanned_pages:
                ballot.nominate(led_by(before, layer, hierarchy), lambda: look(rows))
            turned = far_rows(rows, page, hierarchy, turns)
            ballot.count([key_scores(there, keys, part) for part, there in turned])
        else:
            if start - sinks > hierarchy.looked_pages:
                whole = Blocks(len(q) // n_groups, n_keys - q.shape[1], n_keys, PAGE)
                means, mass = (
                    whole.pool(whole.split(t, n_groups))
                    for t in (q / math.sqrt(width), blocks.join(ballot.mass[..., None]))
                )
                shares = page_shares(torch.cat(look(means), -1), mass[..., 0]).sum(2)
                ballot.narrow(preferred_groups(shares, sinks, hierarchy.looked_pages // GROUP))
            ballot.count(look(rows))
        pages = ballot.elect(n_chosen) + sinks
        recalled = Recalled(sinks, pages, ballot.fused, ballot.votes)
        group = torch.arange(n_groups, device=q.device)[:, None, None]
        k, v = (torch.unflatten(t[:, : start * PAGE], 1, (-1, PAGE)) for t in (keys, values))
        parts.append(_scores(rows, k[group, pages], pages, start if is_beyond else None, turns))
        seen.append(v[group, pages].flatten(2, 3))
    widths = [part.shape[-1] for part in parts]
    weights = torch.split(torch.cat(parts, -1).softmax(-1), widths, -1)
    mixed = sum(w @ v for w, v in zip(weights, seen, strict=True))
    assert isinstance(mixed, Tensor)
    return blocks.join(mixed), recalled


def led_by(before: Carried | None, layer: int, hierarchy: Hierarchy) -> Carried | None:
    """The layer before, if a layer looks where that one found something."""
    return before if hierarchy.fusion and layer % SCANNING else None


def choose_pages(
    votes: Float[Tensor, "G B N"], fused: Float[Tensor, "G B N"], n: int, hierarchy: Hierarchy
) -> Int[Tensor, "G B C"]:
    """Half of the pages by a layer's own votes, the rest by those of all layers up to it.

    Args:
        votes: Of the layer.
        fused: With those of the layers before.
        n: How many to choose.
        hierarchy: Whether votes are fused.

    Returns:
        Chosen pages in order, the first that could be chosen being 0.
    """
    if hierarchy.fusion:
        own = votes.topk(n // 2, -1).indices
        votes = fused.scatter(-1, own, math.inf)
    return votes.topk(n, -1).indices.sort(-1).values


class Ballot:
    """Votes of blocks of queries for the pages that can be chosen."""

    def __init__(
        self,
        blocks: "Blocks",
        mass: Float[Tensor, "G B Q"],
        before: Float[Tensor, "B N"] | None,
        hierarchy: Hierarchy,
    ) -> None:
        """Take none yet.

        Args:
            blocks: Which queries there are.
            mass: The logarithm of what all weighs that they see anyway.
            before: Votes of the layer before.
            hierarchy: Whether votes are fused.
        """
        self._blocks, self.mass, self._before = blocks, mass, before
        self._hierarchy = hierarchy
        self.votes = self.fused = mass.new_empty(*mass.shape[:2], 0)
        self._among: Int[Tensor, "G B C"] | None = None

    def narrow(self, among: Int[Tensor, "G B C"]) -> None:
        """From now on only these pages can have votes, and can be chosen; some may not exist."""
        self._among = among

    def nominate(self, led: Carried | None, look: Callable[[], Sequence[Tensor]]) -> None:
        """Narrow to as many pages as queries that ask may look at.

        Args:
            led: The layer before, if its own votes say which.
            look: Gives what pages weigh by memory nodes, which say it otherwise.
        """
        n = self._hierarchy.scanned_pages
        if led is None:
            self.count(look())
            self.narrow(self.elect(n))
        else:
            self.narrow(led.candidates(n).expand(self.mass.shape[0], -1, -1))

    def count(self, scores: Sequence[Float[Tensor, "G B Q _"]]) -> None:
        """Take votes anew, from logarithms of what pages weigh, some pages at a time."""
        every = torch.cat(list(scores), -1)
        if self._among is not None:
            n_groups, n_blocks, _, n = every.shape
            there = self._among.clamp(0, n - 1).expand(n_groups, n_blocks, -1)
            out = torch.ones_like(every[:, :, 0], dtype=torch.bool)
            # Where a group is cut off, its end is taken twice for what is missing: it must be in.
            out = out.scatter_(-1, there, False)
            every = every.masked_fill(out[:, :, None], -math.inf)
        self.votes = self._blocks.mean(page_shares(every, self.mass))
        self.fused = self.votes
        if self._before is not None:
            self.fused = self.votes + self._hierarchy.fusion * self._before

    def elect(self, n: int) -> Int[Tensor, "G B C"]:
        """So many pages in order, the first that could be chosen being 0."""
        if self._among is None:
            return choose_pages(self.votes, self.fused, n, self._hierarchy)
        among = self._among.expand(*self.votes.shape[:2], -1)
        is_missing = (among < 0) | (among >= self.votes.shape[-1])
        there = among.clamp(0, self.votes.shape[-1] - 1)
        votes, fused = (
            t.gather(-1, there).masked_fill(is_missing, -math.inf) for t in (self.votes, self.fused)
        )
        return among.gather(-1, choose_pages(votes, fused, n, self._hierarchy))


class Blocks:
    """Queries of each group of heads in blocks that choose together, filled up where they begin
    or end in between."""

    def __init__(self, repeats: int, start: int, end: int, together: int = TOGETHER) -> None:
        self._repeats, self._together, self._n_tokens = repeats, together, end - start
        self._start, self._end = start, end
        self._front, back = start % together, -end % together
        self._fill = (0, 0, self._front, back)
        self.positions = (
            torch.arange(start - self._front, end + back).view(-1, together).repeat(1, repeats)
        )
        """Of a block's queries, head by head. [B, Q]"""

    def split(self, q: Float[Tensor, "H T K"], n_groups: int) -> Float[Tensor, "G B Q K"]:
        """Heads into rows of blocks."""
        whole = torch.nn.functional.pad(q, self._fill)
        shape = n_groups, self._repeats, -1, self._together, q.shape[-1]
        return whole.view(shape).transpose(1, 2).flatten(2, 3)

    def mean(self, numbers: Float[Tensor, "G B Q N"]) -> Float[Tensor, "G B N"]:
        """Of each block's queries that are there."""
        return self.pool(numbers).mean(2)

    def pool(self, numbers: Float[Tensor, "G B Q N"]) -> Float[Tensor, "G B R N"]:
        """Each head's mean over its queries that are there."""
        own = torch.unflatten(self.positions, 1, (self._repeats, self._together))
        is_there = ((own >= self._start) & (own < self._end)).to(numbers.device)[..., None]
        heads = torch.unflatten(numbers, 2, (self._repeats, self._together))
        return (heads * is_there).sum(3) / is_there.sum(2)

    def join(self, rows: Float[Tensor, "G B Q K"]) -> Float[Tensor, "H T K"]:
        """Rows of blocks into heads."""
        heads = torch.unflatten(rows, 2, (self._repeats, self._together)).transpose(1, 2)
        whole = heads.flatten(2, 3).flatten(0, 1)
        return whole[:, self._front : self._front + self._n_tokens]


def _scores(
    rows: Tensor, keys: Tensor, pages: Tensor, start: int | None, turns: Turns
) -> Float[Tensor, "G B Q S"]:
    """Of recalled pages, moved up to before page `start` if it is given."""
    if start is None:
        return rows @ keys.flatten(2, 3).transpose(2, 3)
    moved = torch.arange(start - pages.shape[-1], start, device=pages.device) - pages
    table = rope_table(-moved.flatten() * PAGE, rows.shape[-1], turns.theta, rows.dtype)
    cos, sin = (torch.unflatten(t, 0, moved.shape)[:, :, :, None] for t in table)
    other = torch.roll(rows, rows.shape[-1] // 2, -1)
    turned = rows[:, :, None] * cos + other[:, :, None] * sin
    return (turned @ keys.transpose(3, 4)).transpose(2, 3).flatten(3)


def seen_scores(
    rows: Float[Tensor, "G B Q K"],
    keys: Float[Tensor, "G S K"],
    own: Int[Tensor, "B Q"],
    hierarchy: Hierarchy,
    turns: Turns,
) -> list[Float[Tensor, "G B Q _"]]:
    """Scores of what queries in the last page see without choosing: the window, then the sinks.

    Args:
        rows: Scaled queries.
        keys: Rotated keys of all positions up to the last query's.
        own: Positions of the queries.
        hierarchy: What is seen.
        turns: How to turn queries back.
    """
    page = (keys.shape[1] - 1) // PAGE
    start, sinks = hierarchy.window_start(page), hierarchy.sinks_end(page)
    later = torch.arange(start * PAGE, keys.shape[1], device=rows.device)
    window = rows @ keys[:, None, start * PAGE :].transpose(2, 3)
    parts = [window.masked_fill(later > own.to(rows.device)[..., None], -math.inf)]
    if sinks:
        # Beyond the reach they stand before the recalled pages, which stand before the window.
        moved = start - hierarchy.n_recalled(page) - sinks if hierarchy.is_beyond(page) else 0
        parts.append(turns.back(rows, moved) @ keys[:, None, : sinks * PAGE].transpose(2, 3))
    return parts


def far_rows(
    rows: Float[Tensor, "G B Q K"], page: int, hierarchy: Hierarchy, turns: Turns, further: int = 0
) -> Iterator[tuple[slice, Float[Tensor, "G B Q K"]]]:
    """Queries as they look at the pages that can be chosen, some pages at a time.

    Args:
        rows: Of queries in one page.
        page: Which page.
        hierarchy: What is seen.
        turns: How to turn queries back.
        further: Pages by which all are taken to be farther away than they are, beyond the reach.
    """
    first, last = hierarchy.sinks_end(page), hierarchy.window_start(page)
    for group in range(first // GROUP, -(-last // GROUP)):
        distance = page - group * GROUP
        is_beyond = hierarchy.is_beyond(page)
        moved = distance - looked_from(distance + further) if is_beyond else 0
        pages = slice(max(first, group * GROUP), min(last, (group + 1) * GROUP))
        yield pages, turns.back(rows, moved)


def key_scores(
    rows: Float[Tensor, "G B Q K"], keys: Float[Tensor, "G S K"], pages: slice
) -> Float[Tensor, "G B Q N"]:
    """The logarithm of what each of some pages weighs: of the sum of its keys' exponentials.

    Args:
        rows: Scaled queries, turned to where they look from.
        keys: Of all positions.
        pages: Which pages.
    """
    there = keys[:, None, pages.start * PAGE : pages.stop * PAGE]
    return torch.unflatten(rows @ there.transpose(2, 3), -1, (-1, PAGE)).logsumexp(-1)


def preferred_groups(shares: Float[Tensor, "G B N"], first: int, n: int) -> Int[Tensor, "G B C"]:
    """The pages of those groups of `GROUP` that get most; where a group is cut off, pages that do
    not exist stand for what is missing.

    Args:
        shares: Of the pages that can be chosen.
        first: The number of the first of them.
        n: How many groups.
    """
    lacking = first % GROUP, -(first + shares.shape[-1]) % GROUP
    whole = torch.unflatten(torch.nn.functional.pad(shares, lacking), -1, (-1, GROUP))
    best = whole.sum(-1).topk(n, -1).indices.sort(-1).values
    pages = best[..., None] * GROUP + torch.arange(GROUP, device=shares.device)
    return pages.flatten(-2) - lacking[0]


def page_shares(
    scores: Float[Tensor, "G B Q N"], mass: Float[Tensor, "G B Q"]
) -> Float[Tensor, "G B Q N"]:
    """Shares of attention from logarithms of what pages, and all that is seen anyway, weigh."""
    total = torch.logaddexp(scores.logsumexp(-1), mass)
    return (scores - total[..., None]).exp()
