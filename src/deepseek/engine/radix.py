"""A tree of the pages of earlier prompts: each edge is a page of tokens, each node its numbers.

What begins alike is kept once, for each adapter by itself: keys and values depend on that. A prompt
takes the pages of the longest beginning it has in common with any before it, and where that ends
the tree can say why. Pages belong to everyone who uses them (`PagePool`): the tree is one user, and
gives up those first that were not asked for the longest.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

from deepseek.engine.grouping import common_length
from deepseek.model.pages import PagedSequence, PagePool
from deepseek.ops.hierarchical import GROUP, PAGE
from deepseek.ops.native_model import NO_ADAPTER

REMEMBERED = 4_096
"""Pages that are remembered by a digest after they were evicted."""

Reason = Literal["never seen", "evicted", "differs", "shorter than a page"]


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
class _Node:
    tokens: tuple[int, ...]
    parent: "_Node | None"
    digest: bytes
    """Of all tokens up to here."""
    page: int = -1
    memory: int = -1
    children: "dict[tuple[int, ...], _Node]" = field(default_factory=dict)


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
        self._roots: dict[int, _Node] = {}
        """By adapter."""
        # Least recently used first. A page stands behind those that follow it, so that the first
        # one that no sequence uses is always a leaf.
        self._order: OrderedDict[_Node, None] = OrderedDict()
        self._evicted: OrderedDict[bytes, None] = OrderedDict()

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
        path, node = list[_Node](), self._root(adapter)
        for page in _pages(token_ids, most):
            if page not in node.children:
                break
            node = node.children[page]
            path.append(node)
        self._touch(path)
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

    def insert(self, token_ids: Sequence[int], sequence: PagedSequence) -> None:
        """Keep the whole pages of some leading tokens of a sequence.

        Where the tree has a page already, the sequence uses that one from now on: they are equal.
        """
        tables = sequence.tables
        path, node = list[_Node](), self._root(sequence.adapter)
        for place, tokens in enumerate(_pages(token_ids, min(len(token_ids), sequence.length))):
            child = node.children.get(tokens)
            if child is None:
                child = _Node(tokens, node, _digest(node.digest, tokens))
                child.page = self._pool.share(tables[0].pages[place])
                node.children[tokens] = child
                self._evicted.pop(child.digest, None)
            else:
                tables[0].swap(place, child.page)
            if self._memory is not None:
                self._renew(child, tables[1].pages[place // GROUP])
            node = child
            path.append(node)
        self._touch(path)
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
        self._remove(found)
        self._evicted[found.digest] = None
        if len(self._evicted) > REMEMBERED:
            self._evicted.popitem(last=False)
        return True

    def forget(self, adapter: int) -> None:
        """Give back all pages that were read with an adapter, which will never be used again."""
        nodes = list(self._root(adapter).children.values())
        for node in nodes:
            nodes.extend(node.children.values())
        for node in reversed(nodes):
            self._remove(node)
        del self._roots[adapter]

    def clear(self) -> None:
        """Give all pages back, and forget that they were there."""
        while self._order:
            self._remove(next(iter(self._order)))
        self._evicted.clear()

    def _root(self, adapter: int) -> _Node:
        """Where the pages begin that were read with an adapter, or with none."""
        if adapter not in self._roots:
            self._roots[adapter] = _Node((), None, _digest(b"", [adapter]))
        return self._roots[adapter]

    def _remove(self, node: _Node) -> None:
        assert not node.children
        assert node.parent is not None
        del node.parent.children[node.tokens]
        del self._order[node]
        self._pool.give_back(node.page)
        if self._memory is not None:
            self._memory.give_back(node.memory)

    def _renew(self, node: _Node, memory: int) -> None:
        """The latest page with a node's memory nodes: it has those of the pages behind as well."""
        assert self._memory is not None
        if node.memory != memory:
            self._memory.share(memory)
            if node.memory >= 0:
                self._memory.give_back(node.memory)
            node.memory = memory

    def _touch(self, path: Sequence[_Node]) -> None:
        for node in reversed(path):
            self._order[node] = None
            self._order.move_to_end(node)

    def _is_unused(self, node: _Node) -> bool:
        return self._pool.users(node.page) == 1

    def _nearest(self, node: _Node, wanted: tuple[int, ...]) -> tuple[_Node | None, int]:
        """The page after a node that has most in common with what is wanted, and how much."""
        best, most = None, 0
        for tokens, child in node.children.items():
            common = common_length(tokens, wanted)
            if common > most:
                best, most = child, common
        return best, most

    def _why(self, node: _Node, wanted: tuple[int, ...], common: int, length: int) -> Miss | None:
        if common == len(wanted) and (wanted or length):
            return None
        if len(wanted) == PAGE and _digest(node.digest, wanted) in self._evicted:
            return Miss("evicted", length + common)
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


def _digest(before: bytes, tokens: Sequence[int]) -> bytes:
    data = b"".join(token.to_bytes(8, "little", signed=True) for token in tokens)
    return blake2b(before + data, digest_size=16).digest()
