"""A tree of the pages of earlier prompts: each edge is a page of tokens, each node its numbers.

What begins alike is kept once, for each adapter by itself: keys and values depend on that. A prompt
takes the pages of the longest beginning it has in common with any before it, and where that ends
the tree can say why. Pages belong to everyone who uses them (`PagePool`): the tree is one user, and
gives up those first that were not asked for the longest.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, Protocol, runtime_checkable

from deepseek.engine.grouping import common_length
from deepseek.model.pages import PagedSequence, PagePool
from deepseek.model.prefix_page import first_key, key_after
from deepseek.ops.hierarchical import GROUP, PAGE
from deepseek.ops.native_model import NO_ADAPTER

REMEMBERED = 4_096
"""Pages that are remembered by a digest after they were evicted."""

Reason = Literal[
    "never seen",
    "evicted",
    "differs",
    "shorter than a page",
    "dropped for size",
    "damaged on disk",
    "read with other weights or settings",
    "no room in memory",
]
"""The last four are of pages on a disk."""


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
    """Pages of keys and values that hold them; the last one may hold others' tokens behind."""
    memory: list[int]
    """Pages of their memory nodes, where there are any."""
    miss: Miss | None
    """Why it is no longer; None: it is all that was asked for."""


@dataclass(slots=True, eq=False)
class Node:
    """A page in the tree."""

    tokens: tuple[int, ...]
    parent: "Node | None"
    digest: bytes
    """Of all tokens up to here."""
    place: int = -1
    """How many pages stand before it."""
    adapter: int = NO_ADAPTER
    """What it was read with."""
    page: int = -1
    memory: int = -1
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

    def __init__(self, pool: PagePool, memory: PagePool | None = None, most: int = 1 << 40) -> None:
        """Make an empty one.

        Args:
            pool: Has pages of keys and values.
            memory: Has pages of memory nodes; None: there are none.
            most: Pages that it keeps; those that a sequence uses anyway may be more.
        """
        self.most = most
        self._pool, self._memory = pool, memory
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
        """Pages of keys and values that it holds."""
        return len(self._order)

    @property
    def n_unused(self) -> int:
        """Pages that it alone holds, and would give back."""
        return sum(self._is_unused(node) for node in self._order)

    def match(
        self,
        token_ids: Sequence[int],
        most: int,
        *,
        in_pages: bool = False,
        adapter: int = NO_ADAPTER,
    ) -> Match:
        """Look a prompt's beginning up.

        Args:
            token_ids: Of the prompt.
            most: Leading tokens that are of use.
            in_pages: Take whole pages only, not the beginning of one that goes on differently.
            adapter: The number of the one that they must have been read with.
        """
        path = self.path(token_ids, most, adapter)
        node = path[-1] if path else self._root(adapter)
        length = len(path) * PAGE
        memory = [path[min(end, len(path)) - 1].memory for end in _group_ends(len(path))]
        keys = [each.page for each in path]
        wanted = tuple(token_ids[length : min(length + PAGE, most)])
        near, common = self._nearest(node, wanted)
        if near is not None and common and not in_pages:
            keys.append(near.page)
            length += common
        miss = self._why(node, wanted, common, len(path) * PAGE)
        return Match(length, keys, memory if self._memory is not None else [], miss)

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
        if not self._goes_below(adapter):
            return
        digest = path[-1].digest if path else self._root(adapter).digest
        for tokens in islice(_pages(token_ids, most), len(path), None):
            digest = key_after(digest, tokens)
            yield digest

    def nodes(self) -> list[Node]:
        """All pages that are kept below; each stands before those that follow it."""
        kept = (node for node in self._order if self._goes_below(node.adapter))
        return sorted(kept, key=lambda node: node.place)

    def insert(self, token_ids: Sequence[int], sequence: PagedSequence) -> None:
        """Keep the whole pages of some leading tokens of a sequence.

        Where the tree has a page already, the sequence uses that one from now on: they are equal.
        """
        tables = sequence.tables
        adapter = sequence.adapter
        path, new, node = list[Node](), list[Node](), self._root(adapter)
        for place, tokens in enumerate(_pages(token_ids, min(len(token_ids), sequence.length))):
            child = node.children.get(tokens)
            if child is None:
                child = Node(tokens, node, key_after(node.digest, tokens), place, adapter)
                child.page = self._pool.share(tables[0].pages[place])
                node.children[tokens] = child
                self._evicted.pop(child.digest, None)
                new.append(child)
            else:
                tables[0].swap(place, child.page)
            if self._memory is not None:
                self._renew(child, tables[1].pages[place // GROUP])
            node = child
            path.append(node)
        self._touch(path)
        if self._below is not None and self._goes_below(adapter):
            for each in new:
                self._below.came(each)
        while len(self) > self.most and self.evict():
            pass

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

    def _goes_below(self, adapter: int) -> bool:
        """Whether pages that were read with an adapter mean the same in another process."""
        return adapter == NO_ADAPTER or adapter in self._fingerprints

    def _remove(self, node: Node, *, is_evicted: bool = False) -> None:
        assert not node.children
        if self._below is not None and self._goes_below(node.adapter):
            self._below.goes(node, is_evicted=is_evicted)
        assert node.parent is not None
        del node.parent.children[node.tokens]
        del self._order[node]
        self._pool.give_back(node.page)
        if self._memory is not None:
            self._memory.give_back(node.memory)

    def _renew(self, node: Node, memory: int) -> None:
        """The latest page with a node's memory nodes: it has those of the pages behind as well."""
        assert self._memory is not None
        if node.memory != memory:
            self._memory.share(memory)
            if node.memory >= 0:
                self._memory.give_back(node.memory)
            node.memory = memory

    def _touch(self, path: Sequence[Node]) -> None:
        for node in reversed(path):
            self._order[node] = None
            self._order.move_to_end(node)

    def _is_unused(self, node: Node) -> bool:
        return self._pool.users(node.page) == 1

    def _nearest(self, node: Node, wanted: tuple[int, ...]) -> tuple[Node | None, int]:
        """The page after a node that has most in common with what is wanted, and how much."""
        best, most = None, 0
        for tokens, child in node.children.items():
            common = common_length(tokens, wanted)
            if common > most:
                best, most = child, common
        return best, most

    def _why(self, node: Node, wanted: tuple[int, ...], common: int, length: int) -> Miss | None:
        if common == len(wanted) and (wanted or length):
            return None
        if len(wanted) == PAGE:
            digest = key_after(node.digest, wanted)
            reason = None if self._below is None else self._below.why(digest)
            if reason is None and digest in self._evicted:
                reason = "evicted"
            if reason is not None:
                return Miss(reason, length + common)
        if common or (length and node.children):
            return Miss("differs", length + common)
        return Miss("never seen" if len(wanted) == PAGE else "shorter than a page", length)


def _pages(token_ids: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
    """The whole pages of the first `most` tokens."""
    for start in range(0, most // PAGE * PAGE, PAGE):
        yield tuple(token_ids[start : start + PAGE])


def _group_ends(n_pages: int) -> range:
    """For each page of memory nodes, where the pages end whose nodes it holds."""
    return range(GROUP, n_pages + GROUP, GROUP)
