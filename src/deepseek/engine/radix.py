"""A tree of the pages of earlier prompts: each edge is a page of tokens, each node its numbers.

What begins alike is kept once, for each adapter by itself: keys and values depend on that. A prompt
takes the pages of the longest beginning it has in common with any before it, and where that ends
the tree can say why. Pages belong to everyone who uses them (`PagePool`): the tree is one user, and
gives up those first that were not asked for the longest.

With a cold tier a page has two forms. Its codes stay as long as the node does; as it was read, it
is kept where prompts may go on: queries see the first pages and those of the window before them so.
A prompt begins behind the last page before which all of these are there. What would have to be made
from codes is not shared: it would not be to the last bit what the model reads.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, Protocol, runtime_checkable

from deepseek.engine.grouping import common_length
from deepseek.model.pages import GONE, PagedSequence, PagePool, Table
from deepseek.model.prefix_page import first_key, key_after
from deepseek.ops.cold import ColdTier
from deepseek.ops.hierarchical import GROUP, PAGE
from deepseek.ops.native_model import NO_ADAPTER

REMEMBERED = 4_096
"""Pages that are remembered by a digest after they were evicted."""

Reason = Literal[
    "never seen",
    "evicted",
    "differs",
    "shorter than a page",
    "kept in fewer bits",
    "dropped for size",
    "damaged on disk",
    "read with other weights or settings",
    "no room in memory",
]
"""The last four are of pages on a disk. `kept in fewer bits`: pages are there, but of the window
before them only codes."""


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a prompt's pages from some token on are not there."""

    reason: Reason
    position: int
    """The first token that must be read."""

    def __str__(self) -> str:
        return f"differs at token {self.position}" if self.reason == "differs" else self.reason


@dataclass(frozen=True, slots=True)
class Match:
    """The longest known beginning of a prompt."""

    length: int
    """Tokens."""
    keys: list[int]
    """Pages of keys and values that hold them; the last one may hold others' tokens behind. `GONE`
    for those that are seen in their cold form."""
    memory: list[int]
    """Pages of their memory nodes, where there are any."""
    miss: Miss | None
    """Why it is no longer; None: it is all that was asked for."""
    cold: list[int] = field(default_factory=list)
    """Cold pages, where there are any."""


@dataclass(slots=True, eq=False)
class Node:
    """A page in the tree, or the begun page at a text's end."""

    tokens: tuple[int, ...]
    """Fewer than a page has at the end of what is known of a text: nothing follows those."""
    parent: "Node | None"
    digest: bytes
    """Of all tokens up to here."""
    place: int = -1
    """How many pages stand before it."""
    adapter: int = NO_ADAPTER
    """What it was read with."""
    page: int = GONE
    memory: int = GONE
    cold: int = GONE
    children: "dict[tuple[int, ...], Node]" = field(default_factory=dict)


@runtime_checkable
class Below(Protocol):
    """What keeps pages that the tree does not: a disk."""

    def came(self, node: Node) -> None:
        """A page is in the tree now."""
        ...

    def goes(self, node: Node, *, is_evicted: bool) -> None:
        """A page will not be in the tree any more; only for lack of room, or for good."""
        ...

    def why(self, digest: bytes) -> Reason | None:
        """Why a page did not come back, as far as that is known."""
        ...


class RadixTree:
    """The pages of earlier prompts."""

    def __init__(
        self,
        pool: PagePool,
        memory: PagePool | None = None,
        most: int = 1 << 40,
        cold: PagePool | None = None,
        tier: ColdTier | None = None,
        most_cold: int = 1 << 40,
    ) -> None:
        """Make an empty one.

        Args:
            pool: Has pages of keys and values.
            memory: Has pages of memory nodes; None: there are none.
            most: Pages that it keeps as they are; those that a sequence uses anyway may be more.
            cold: Has cold pages; None: there are none.
            tier: What is seen of these.
            most_cold: Of these, pages that it keeps, likewise.
        """
        self.most, self._most_cold = most, most_cold
        self._pool, self._memory, self._cold = pool, memory, cold
        self._n_sinks = 0 if tier is None else tier.sinks // PAGE
        self._n_window = 0 if tier is None else tier.window // PAGE
        self._below: Below | None = None
        self._tenant = ""
        self._roots: dict[int, Node] = {}
        """By adapter."""
        self._fingerprints: dict[int, str] = {}
        """Of adapters. Their numbers mean others in another process: pages of one without a
        fingerprint do not go below."""
        # Least recently used first. A page stands behind those that follow it, so that the first
        # one that no sequence uses is always a leaf.
        self._order: OrderedDict[Node, None] = OrderedDict()
        self._exact: OrderedDict[Node, None] = OrderedDict()
        """In the same order, those whose pages are there as they are; all, if none are cold."""
        self._evicted: OrderedDict[bytes, None] = OrderedDict()

    def stand_on(self, below: Below, tenant: str) -> None:
        """Tell something below what comes and goes; the tree is empty.

        Args:
            below: Is told.
            tenant: Whose prompts they are: digests of those of different ones never meet.
        """
        assert not self._order
        self._below, self._tenant = below, tenant
        self._roots.clear()

    def know(self, adapter: int, fingerprint: str) -> None:
        """Take in what an adapter adds; nothing was read with it yet."""
        assert adapter not in self._roots
        self._fingerprints[adapter] = fingerprint

    def __len__(self) -> int:
        """Pages that it holds, in whatever form."""
        return len(self._order)

    @property
    def n_exact(self) -> int:
        """Pages that it holds as they are."""
        return len(self._exact)

    @property
    def n_unused(self) -> int:
        """Pages as they are that it alone holds, and would give back."""
        return sum(self._pool.users(node.page) == 1 for node in self._exact)

    @property
    def n_unused_cold(self) -> int:
        """Cold pages that it alone holds, and would give back."""
        return 0 if self._cold is None else sum(map(self._is_unused, self._order))

    def match(
        self,
        token_ids: Sequence[int],
        most: int,
        *,
        in_pages: bool = False,
        adapter: int = NO_ADAPTER,
        slack: int = 0,
    ) -> Match:
        """Look a prompt's beginning up.

        Args:
            token_ids: Of the prompt.
            most: Leading tokens that are of use.
            in_pages: Take whole pages only, not the beginning of one that goes on differently.
            adapter: The number of the one that they must have been read with.
            slack: Tokens before the window that must be there as they are, too.
        """
        path = self.path(token_ids, most, adapter)
        n_found = len(path)
        n_near = self._n_window + slack // PAGE
        if self._cold is not None:
            del path[self._depth(path, n_near) :]
        node = path[-1] if path else self._root(adapter)
        length = len(path) * PAGE
        memory = [path[min(end, len(path)) - 1].memory for end in _group_ends(len(path))]
        keys, cold = [each.page for each in path], [each.cold for each in path]
        if self._cold is None:
            cold = []
        else:
            for place in range(self._n_sinks, len(path) - n_near):
                keys[place] = GONE
        wanted = tuple(token_ids[length : min(length + PAGE, most)])
        near, common = self._nearest(node, wanted)
        if len(path) < n_found:
            miss: Miss | None = Miss("kept in fewer bits", length)
        else:
            is_end = near is not None and common == len(near.tokens)
            miss = self._why(node, wanted, common, length, is_end=is_end)
            if near is not None and common and not in_pages:
                keys.append(near.page)
                length += common
        return Match(length, keys, memory if self._memory is not None else [], miss, cold)

    def _depth(self, path: Sequence[Node], n_near: int) -> int:
        """Behind how many pages of a path a prompt may go on: the first ones and so many before it
        must be there as they are."""
        depth, start = 0, 0
        for place, node in enumerate(path):
            if node.page == GONE:
                start = place + 1
                if place < self._n_sinks:
                    break
            if start <= max(0, place + 1 - n_near):
                depth = place + 1
        return depth

    def path(self, token_ids: Sequence[int], most: int, adapter: int = NO_ADAPTER) -> list[Node]:
        """The pages of a prompt's beginning that are here, in order; they are used now."""
        path, node = list[Node](), self._root(adapter)
        for page in _pages(token_ids, most):
            if page not in node.children:
                break
            node = node.children[page]
            path.append(node)
        self._touch(path)
        return path

    def following(
        self,
        token_ids: Sequence[int],
        most: int,
        path: Sequence[Node],
        adapter: int = NO_ADAPTER,
    ) -> Iterator[bytes]:
        """Digests of the whole pages that follow those which are here; none if they are not kept
        below."""
        if not self._is_known(adapter):
            return
        digest = path[-1].digest if path else self._root(adapter).digest
        for tokens in islice(_pages(token_ids, most), len(path), None):
            digest = key_after(digest, tokens)
            yield digest

    def nodes(self) -> list[Node]:
        """All pages that are kept below; each stands before those that follow it."""
        kept = (node for node in self._order if self._goes_below(node))
        return sorted(kept, key=lambda node: node.place)

    def insert(
        self, token_ids: Sequence[int], sequence: PagedSequence, *, ends: bool = False
    ) -> None:
        """Keep the whole pages of some leading tokens of a sequence.

        Where the tree has a page already, the sequence uses that one from now on: they are equal.

        Args:
            token_ids: The leading tokens.
            sequence: Holds them.
            ends: Nothing will be written behind them: the begun page at the end is kept as well,
                unless there are memory nodes or cold pages, which are made of whole ones.
        """
        if sequence.was_expanded:
            return
        adapter = sequence.adapter
        path, new, node = list[Node](), list[Node](), self._root(adapter)
        for place, tokens in enumerate(_pages(token_ids, min(len(token_ids), sequence.length))):
            child = node.children.get(tokens)
            if child is None:
                self._replace_begun(node, tokens)
                child = Node(tokens, node, key_after(node.digest, tokens), place, adapter)
                node.children[tokens] = child
                self._evicted.pop(child.digest, None)
                new.append(child)
            self._unite(child, sequence.tables)
            node = child
            path.append(node)
        if ends and self._memory is None and self._cold is None:
            path += self._end(node, token_ids[len(path) * PAGE : sequence.length], sequence)
        self._touch(path)
        for each in new:
            if self._below is not None and self._goes_below(each):
                self._below.came(each)
        while self.n_exact > self.most and self.give_up():
            pass
        while self._cold is not None and len(self) > self._most_cold and self.evict():
            pass

    def _unite(self, node: Node, tables: Sequence[Table]) -> None:
        """Let a node and a sequence hold the same pages; each gives what the other has not."""
        keys, *others = tables
        node.page = _united(node.page, keys, node.place)
        if self._memory is not None:
            self._renew(node, others[0].pages[node.place // GROUP])
        if self._cold is not None:
            node.cold = _united(node.cold, others[-1], node.place)

    def give_up(self) -> bool:
        """Give up a page as it is, which may still be there in its cold form; False: there is none.

        Where prompts may well go on, at ends and where they part, the window is kept longest.
        """
        if self._cold is None:
            return self.evict()
        found = None
        for node in self._exact:
            if self._pool.users(node.page) == 1:
                if self._is_inner(node):
                    found = node
                    break
                found = found or node
        if found is None:
            return False
        self._drop_exact(found)
        return True

    def _is_inner(self, node: Node) -> bool:
        """Whether a page is neither among the first, nor in the window of a place where a prompt
        ends or several part."""
        if node.place < self._n_sinks:
            return False
        for _ in range(self._n_window):
            if len(node.children) != 1:
                return False
            (node,) = node.children.values()
        return True

    def _drop_exact(self, node: Node) -> None:
        if node.page != GONE:
            self._pool.give_back(node.page)
            node.page = GONE
            del self._exact[node]

    def evict(self, *, used_too: bool = False) -> bool:
        """Give up the leaf that was not asked for the longest; False: there is none.

        Args:
            used_too: Also one whose page a sequence uses. That frees its memory nodes at most.
        """
        found = next((node for node in self._order if used_too or self._is_unused(node)), None)
        if found is None:
            return False
        self._remove(found, is_evicted=True)
        self._evicted[found.digest] = None
        if len(self._evicted) > REMEMBERED:
            self._evicted.popitem(last=False)
        return True

    def forget(self, adapter: int) -> None:
        """Give back all pages that were read with an adapter, whose number is never used again.

        What is below keeps them: the same adapter may be loaded again.
        """
        nodes = list(self._root(adapter).children.values())
        for node in nodes:
            nodes.extend(node.children.values())
        for node in reversed(nodes):
            self._remove(node, is_evicted=True)
        del self._roots[adapter]
        self._fingerprints.pop(adapter, None)

    def clear(self) -> None:
        """Give all pages back, and forget that they were there."""
        while self._order:
            self._remove(next(iter(self._order)))
        self._evicted.clear()

    def _root(self, adapter: int) -> Node:
        """Where the pages begin that were read with an adapter, or with none."""
        if adapter not in self._roots:
            known = "" if adapter == NO_ADAPTER else self._fingerprints.get(adapter, str(adapter))
            self._roots[adapter] = Node((), None, first_key(self._tenant, known))
        return self._roots[adapter]

    def _end(
        self, parent: Node, token_ids: Sequence[int], sequence: PagedSequence
    ) -> tuple[Node, ...]:
        """Keep a page that was begun behind a whole one, in place of those that have less of it."""
        tokens = tuple(token_ids)
        near, common = self._nearest(parent, tokens)
        if common == len(tokens):
            return () if near is None else (near,)
        self._replace_begun(parent, tokens)
        place = parent.place + 1
        node = Node(tokens, parent, key_after(parent.digest, tokens), place, sequence.adapter)
        node.page = self._pool.share(sequence.tables[0].pages[place])
        parent.children[tokens] = node
        return (node,)

    def _replace_begun(self, parent: Node, tokens: tuple[int, ...]) -> None:
        """Do without the begun pages that one with these tokens holds as well."""
        for known in [key for key in parent.children if key == tokens[: len(key)]]:
            self._remove(parent.children[known])

    def _goes_below(self, node: Node) -> bool:
        """Whether a disk may have it: a whole page that means the same in another process."""
        return self._is_known(node.adapter) and len(node.tokens) == PAGE

    def _is_known(self, adapter: int) -> bool:
        """Whether pages that were read with an adapter mean the same in another process."""
        return adapter == NO_ADAPTER or adapter in self._fingerprints

    def _remove(self, node: Node, *, is_evicted: bool = False) -> None:
        assert not node.children
        if self._below is not None and self._goes_below(node):
            self._below.goes(node, is_evicted=is_evicted)
        assert node.parent is not None
        del node.parent.children[node.tokens]
        del self._order[node]
        self._drop_exact(node)
        if self._cold is not None:
            self._cold.give_back(node.cold)
        if self._memory is not None:
            self._memory.give_back(node.memory)

    def _renew(self, node: Node, memory: int) -> None:
        """The latest page with a node's memory nodes: it has those of the pages behind as well."""
        assert self._memory is not None
        if node.memory != memory:
            self._memory.share(memory)
            if node.memory != GONE:
                self._memory.give_back(node.memory)
            node.memory = memory

    def _touch(self, path: Sequence[Node]) -> None:
        for node in reversed(path):
            self._order[node] = None
            self._order.move_to_end(node)
            if node.page != GONE:
                self._exact[node] = None
                self._exact.move_to_end(node)

    def _is_unused(self, node: Node) -> bool:
        if self._cold is not None:
            return self._cold.users(node.cold) == 1
        return self._pool.users(node.page) == 1

    def _nearest(self, node: Node, wanted: tuple[int, ...]) -> tuple[Node | None, int]:
        """The page after a node that has most in common with what is wanted, and how much."""
        best, most = None, 0
        for tokens, child in node.children.items():
            common = common_length(tokens, wanted) if child.page != GONE else 0
            if common > most:
                best, most = child, common
        return best, most

    def _why(
        self, node: Node, wanted: tuple[int, ...], common: int, length: int, *, is_end: bool
    ) -> Miss | None:
        if common == len(wanted) and (wanted or length):
            return None
        if len(wanted) == PAGE:
            digest = key_after(node.digest, wanted)
            reason = None if self._below is None else self._below.why(digest)
            if reason is None and digest in self._evicted:
                reason = "evicted"
            if reason is not None:
                return Miss(reason, length + common)
        if is_end:
            return Miss("never seen", length + common)
        if common or (length and node.children):
            return Miss("differs", length + common)
        return Miss("never seen" if len(wanted) == PAGE else "shorter than a page", length)


def _united(page: int, table: Table, place: int) -> int:
    """The page that a node holds from now on, where it has one and a sequence another, or neither
    has: the node's if it has one, and so the sequence's."""
    there = table.pages[place]
    if page == GONE:
        return there if there == GONE else table.pool.share(there)
    if there != GONE:
        table.swap(place, page)
    return page


def _pages(token_ids: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
    """The whole pages of the first `most` tokens."""
    for start in range(0, most // PAGE * PAGE, PAGE):
        yield tuple(token_ids[start : start + PAGE])


def _group_ends(n_pages: int) -> range:
    """For each page of memory nodes, where the pages end whose nodes it holds."""
    return range(GROUP, n_pages + GROUP, GROUP)
