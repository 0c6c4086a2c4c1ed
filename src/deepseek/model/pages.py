"""Keys and values in pages that sequences share as long as none of them writes there."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import BFloat16, UInt8
from torch import Tensor

from deepseek.core.errors import RequestError
from deepseek.model.budget import ROWS
from deepseek.model.config import ModelConfig
from deepseek.model.context_file import check_numbers
from deepseek.ops.cold import ColdBits, ColdTier, extremes, key_bytes, page_bytes
from deepseek.ops.hierarchical import GROUP, NEVER, NODES, PAGE
from deepseek.ops.huge_pages import empty, give_back
from deepseek.ops.native_model import NO_ADAPTER, NewTokens, Pages

COVERED = PAGE * GROUP
"""Positions whose memory nodes lie in one page of them."""
BLOCK = 16
"""Pages that a pool grows by: nothing is ever moved, and little is reserved without use."""
GONE = -1
"""In place of a page that was given back."""
KEPT_SLACK = 512
"""Tokens before the window that a saved context keeps as they are: reading on from it begins some
pages before its end. More than a tier's slack is never there."""


class PagePool:
    """All pages of one kind of one model. It grows; a page that nobody uses is used again."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        has_values: bool = True,
        bits: ColdBits | None = None,
        most: int | None = None,
    ) -> None:
        """Make a pool.

        Args:
            config: Of the model.
            has_values: Whether a page holds keys and values, or memory nodes, which lie like keys.
            bits: Of cold pages; None: bfloat16.
            most: Pages that it has, reserved at once; None: it grows.
        """
        self._most, self._bits, self._width = most, bits, config.d_head
        size = PAGE * config.d_head if bits is None else page_bytes(bits, config.d_head)
        self._shape = (config.n_layers, most or BLOCK, config.n_kv_heads, size)
        self._dtype = torch.bfloat16 if bits is None else torch.uint8
        self._has_values = has_values
        self.on_full: Callable[[], bool] | None = None
        """Asked to give pages back when there may be no more; False: there are none to give."""
        self._users: list[int] = []
        self._free: list[int] = []
        self._n_withdrawn = 0
        self.pages = Pages(keys=())
        """Where everything is, until it grows."""
        self._grow()

    @property
    def n_used(self) -> int:
        """Pages that a sequence holds."""
        return len(self._users) - len(self._free) - self._n_withdrawn

    @property
    def n_free(self) -> int:
        """Pages that can be taken without growing."""
        return len(self._free)

    @property
    def most(self) -> int | None:
        """Pages that there may be; None: it grows."""
        return None if self._most is None else self._most - self._n_withdrawn

    @property
    def n_bytes(self) -> int:
        """Bytes reserved."""
        return sum(t.nbytes for t in (*self.pages.keys, *self.pages.values))

    def take(self) -> int:
        """A page for one user; what it holds is undefined.

        Raises:
            RequestError: The pool may not grow any more.
        """
        while not self._free and self._is_full and self.on_full and self.on_full():
            pass
        if not self._free:
            self._grow()
        page = self._free.pop()
        self._users[page] = 1
        return page

    def withdraw(self, n_bytes: int) -> list[int]:
        """Do without free pages, whose memory something else takes.

        Args:
            n_bytes: That it needs at least.

        Returns:
            Their numbers, for `put_back`; none if those that are free do not suffice.
        """
        # Those at the beginning were used last of all, or never.
        pages, gained = list[int](), 0
        for page in self._free:
            if gained >= n_bytes:
                break
            pages.append(page)
            gained += sum(give_back(run) for part in self.pages.of(page) for run in part)
        if gained < n_bytes:
            return []
        del self._free[: len(pages)]
        self._n_withdrawn += len(pages)
        return pages

    def put_back(self, pages: Sequence[int]) -> None:
        """Use pages again that were withdrawn."""
        self._free[:0] = pages
        self._n_withdrawn -= len(pages)

    def users(self, page: int) -> int:
        """How many hold a page."""
        return self._users[page]

    def share(self, page: int) -> int:
        """The same page, for one more user."""
        self._users[page] += 1
        return page

    def give_back(self, page: int) -> None:
        """One user less."""
        self._users[page] -= 1
        if not self._users[page]:
            self._free.append(page)

    @torch.inference_mode()
    def own(self, page: int) -> int:
        """The page if it has one user, else a copy for one of its users."""
        if self._users[page] == 1:
            return page
        copy = self.take()
        self._copy(page, copy)
        self.give_back(page)
        return copy

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return sum(t.nbytes for t in self.pages.of(0))

    @property
    def layout(self) -> str:
        """How numbers lie in a page (`attention.h`, `cold.h`), the same on all processors."""
        if self._bits is not None:
            return f"int{self._bits} codes"
        return "bfloat16 pairs" if self._has_values else "bfloat16 pairs of nodes, 16 pages each"

    def read(self, page: int, n_vectors: int = PAGE) -> UInt8[Tensor, " N"]:
        """What a page holds: of each layer the keys, then the values.

        Args:
            page: Its number.
            n_vectors: Of memory nodes, how many were written; the others become zero.
        """
        whole = torch.stack(self.pages.of(page), 1)
        if self._bits is not None:
            whole[:, 0, :, key_bytes(self._bits, self._width) :] = 0  # never written
        elif n_vectors < PAGE:
            places = whole.view(*whole.shape[:3], -1, NODES, GROUP, 2)
            places[:, :, :, :, :, n_vectors // NODES :] = 0
        return whole.view(-1).view(torch.uint8)

    @torch.inference_mode()
    def write(self, page: int, content: UInt8[Tensor, " N"]) -> None:
        """Put there what `read` gave.

        Raises:
            ContextError: It holds what no model computes.
        """
        places = self.pages.of(page)
        layers, heads, size = places[0].shape
        whole = content.view(self._dtype).view(layers, len(places), heads, size)
        bits = self._bits
        check_numbers(whole if bits is None else extremes(whole, bits, self._width))
        for place, part in zip(places, whole.unbind(1), strict=True):
            place.copy_(part)

    @property
    def node_bytes(self) -> int:
        """Bytes of the memory nodes of one page of keys and values."""
        return self.page_bytes // GROUP

    @torch.inference_mode()
    def read_nodes(self, page: int, place: int) -> UInt8[Tensor, " N"]:
        """Memory nodes of one of the pages of keys whose nodes a page holds.

        Args:
            page: Its number.
            place: Which of them, less than `GROUP`.
        """
        return self._nodes(page, place).contiguous().view(-1).view(torch.uint8)

    @torch.inference_mode()
    def write_nodes(self, page: int, place: int, content: UInt8[Tensor, " N"]) -> None:
        """Put there what `read_nodes` gave.

        Raises:
            ContextError: They hold what no model computes.
        """
        there = self._nodes(page, place)
        nodes = content.view(self._dtype).view(there.shape)
        check_numbers(nodes)
        there.copy_(nodes)

    def _nodes(self, page: int, place: int) -> BFloat16[Tensor, "L G D N 2"]:
        (whole,) = self.pages.of(page)
        return whole.view(*whole.shape[:2], -1, NODES, GROUP, 2)[:, :, :, :, place]

    @property
    def _is_full(self) -> bool:
        return self._most is not None and len(self._users) >= self._most

    def _grow(self) -> None:
        had = len(self._users)
        if had and self._most is not None:
            raise RequestError(
                f"all {self.most:,} pages of memory are in use, and the memory budget allows no "
                "more",
                "ask fewer or shorter prompts at once, or give a larger memory budget",
            )
        self._reserve()
        self._users += [0] * self._shape[1]
        self._free += range(len(self._users) - 1, had - 1, -1)

    def _reserve(self) -> None:
        """Make a block."""
        keys, *values = (empty(self._shape, self._dtype) for _ in range(1 + self._has_values))
        self.pages = Pages(keys=(*self.pages.keys, keys), values=(*self.pages.values, *values))

    def _copy(self, page: int, to: int) -> None:
        """Make one page like another."""
        for place, there in zip(self.pages.of(to), self.pages.of(page), strict=True):
            place.copy_(there)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdPages:
    """Where sequences keep what lies behind their window."""

    pool: PagePool
    tier: ColdTier
    expand: Callable[[int, int], None]
    """Makes a page of what a cold page stands for."""
    rows: int = ROWS
    """Most tokens of a sequence in a pass."""


class Missing(NamedTuple):
    """Pages of each kind that new tokens take."""

    keys: int = 0
    """Of keys and values as they are."""
    nodes: int = 0
    cold: int = 0


class PagedSequence:
    """The pages of one sequence: as they are, cold ones, and those of its memory nodes."""

    def __init__(
        self, pool: PagePool, memory: PagePool | None = None, cold: ColdPages | None = None
    ) -> None:
        """Begin an empty one.

        Args:
            pool: Has pages for keys and values.
            memory: Has pages for memory nodes; None: the sequence has none.
            cold: Has cold pages; None: all are kept as they are.
        """
        tier = None if cold is None else cold.tier
        self._keys = Table("keys and values", pool, PAGE, tier)
        self._memory = None if memory is None else Table("memory nodes", memory, COVERED)
        self._cold = None if cold is None else Table("cold keys and values", cold.pool, PAGE)
        self._cold_pages = cold
        self.was_expanded = False
        """Whether pages were made from their cold form, and so are not those that were read."""
        self.length = 0
        self.asks_from = NEVER
        """The position from which tokens choose by keys what they recall."""
        self.adapter = NO_ADAPTER
        """The number of what is added to the model's products for its tokens."""

    @property
    def tables(self) -> "tuple[Table, ...]":
        """Its pages by kind."""
        return tuple(t for t in (self._keys, self._memory, self._cold) if t is not None)

    def is_as_read(self, length: int) -> bool:
        """Whether the first tokens are here as reading them leaves them, so far as it is saved."""
        places = self._keys.places(length)
        return not self.was_expanded and all(self._keys.pages[p] != GONE for p in places)

    def begin(
        self,
        length: int,
        keys: Sequence[int],
        memory: Sequence[int] = (),
        cold: Sequence[int] = (),
    ) -> None:
        """Begin an empty sequence with pages that someone else holds.

        Args:
            length: Tokens that they hold for it.
            keys: Numbers of its pages of keys and values; `GONE` for those that it sees in their
                cold form only.
            memory: Numbers of its pages of memory nodes, if it has any.
            cold: Numbers of its cold pages, one for each that is complete, if it has any.
        """
        assert not self.length
        self._keys.begin(keys)
        if self._memory is not None:
            self._memory.begin(memory)
        if self._cold is not None:
            assert len(cold) == length // PAGE
            self._cold.begin(cold)
        self.length = length

    def missing(self, n_tokens: int) -> Missing:
        """Pages that `extend` would take.

        With cold pages, if they are more than the tokens of a pass: at once, in several passes.
        """
        end = self.length + n_tokens
        keys, nodes, cold = self._keys.missing(self.length, end), 0, 0
        begun = self.length // PAGE * PAGE
        if self._memory is not None:
            nodes = self._memory.missing(begun, end)
        if self._cold is not None and self._cold_pages is not None:
            cold = self._cold.missing(begun, end // PAGE * PAGE)
            rows = self._cold_pages.rows
            if n_tokens > rows:
                most = self._cold_pages.tier.at_once(-(-end // PAGE), rows)
                keys = min(keys, max(0, most - self._keys.n_there))
        return Missing(keys, nodes, cold)

    def fork(self, length: int) -> "PagedSequence":
        """A sequence that begins with the first `length` tokens of this one.

        Where this one has given pages back that the fork needs, it gets them from their cold form.

        Raises:
            RequestError: They cannot be made.
        """
        assert 0 <= length <= self.length
        fork = PagedSequence(self._keys.pool)
        fork._keys = self._keys.fork(length)
        fork._memory = None if self._memory is None else self._memory.fork(length)
        fork._cold_pages = self._cold_pages
        fork._cold = None if self._cold is None else self._cold.fork(length)
        fork.length, fork.asks_from, fork.adapter = length, self.asks_from, self.adapter
        fork.was_expanded = self.was_expanded
        fork._restore(length)
        return fork

    def extend(self, n_tokens: int) -> NewTokens:
        """Make room for new tokens; call `advance` once they are there."""
        end = self.length + n_tokens
        self._keys.write(self.length, end)
        memory: Sequence[int] = ()
        if self._memory is not None:
            # The nodes of a page are written when it is complete.
            self._memory.write(self.length // PAGE * PAGE, end)
            memory = self._memory.pages
        cold: Sequence[int] = ()
        if self._cold is not None:
            self._cold.write(self.length // PAGE * PAGE, end // PAGE * PAGE)
            cold = self._cold.pages
        return NewTokens(
            count=n_tokens,
            length=self.length,
            pages=self._keys.pages,
            memory=memory,
            cold=cold,
            asks_from=self.asks_from,
            adapter=self.adapter,
        )

    def advance(self, n_tokens: int) -> None:
        """Count tokens that were written, and give back pages that are far enough behind."""
        self.length += n_tokens
        if self._cold_pages is not None:
            tier = self._cold_pages.tier
            kept = tier.window_start(self.length // PAGE) - tier.slack // PAGE
            self._keys.give_back(tier.sinks // PAGE, kept)

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` tokens.

        If the pages of the new window were given back, they are made from their cold form.

        Raises:
            ValueError: There are fewer.
            RequestError: They cannot be made; then the sequence is empty.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate {self.length} tokens to {length}")
        self._keys.truncate(length)
        if self._memory is not None:
            self._memory.truncate(length)
        self.length = length
        self._restore(length)

    def release(self) -> None:
        """Give all pages back."""
        self.truncate(0)

    def _restore(self, length: int) -> None:
        """Make sure of the pages that tokens after the first `length` see as they are."""
        if self._cold is None or self._cold_pages is None:
            return
        pages = self._keys.pages
        try:
            for place in range(self._cold_pages.tier.window_start(length // PAGE), len(pages)):
                if pages[place] == GONE:
                    pages[place] = self._keys.pool.take()
                    self._cold_pages.expand(self._cold.pages[place], pages[place])
                    self.was_expanded = True
        except RequestError:
            self.release()
            raise
        self._cold.truncate(length // PAGE * PAGE)
        self.was_expanded &= length > 0


class Table:
    """The pages of a sequence in one pool, each for as many positions."""

    def __init__(
        self, name: str, pool: PagePool, covered: int, tier: ColdTier | None = None
    ) -> None:
        self.name, self.pool, self.covered, self._tier = name, pool, covered, tier
        self.pages = array("i")
        self._n_behind = 0  # pages that were looked at by `give_back`

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return self.pool.page_bytes

    @property
    def layout(self) -> str:
        """In which number format and order."""
        return self.pool.layout

    def places(self, n_positions: int) -> Sequence[int]:
        """Where pages stand that are saved of the first positions: all, but those given back."""
        n_pages = -(-n_positions // self.covered)
        if self._tier is None:
            return range(n_pages)
        return self._tier.kept(n_pages, min(self._tier.slack, KEPT_SLACK))

    def read(self, place: int, n_positions: int) -> UInt8[Tensor, " N"]:
        """What the page at a place holds for the first `n_positions` of the sequence."""
        filled = min(self.covered, n_positions - place * self.covered)
        return self.pool.read(self.pages[place], filled * PAGE // self.covered)

    def put(self, place: int, content: UInt8[Tensor, " N"]) -> None:
        """Add a page that `read` gave, behind all others.

        Raises:
            ContextError: It holds what no model computes.
        """
        self.pages.extend([GONE] * (place - len(self.pages)))
        self.pages.append(self.pool.take())
        self.pool.write(self.pages[-1], content)

    @property
    def n_there(self) -> int:
        """Pages that were not given back."""
        return len(self.pages) - self.pages.count(GONE)

    def begin(self, pages: Sequence[int]) -> None:
        """Hold pages that someone else holds, too."""
        self.pages.extend(p if p == GONE else self.pool.share(p) for p in pages)

    def fork(self, length: int) -> "Table":
        """A table that begins with the pages of the first `length` positions."""
        fork = Table(self.name, self.pool, self.covered, self._tier)
        kept = self.pages[: -(-length // self.covered)]
        fork.pages = array("i", (p if p == GONE else self.pool.share(p) for p in kept))
        return fork

    def swap(self, place: int, page: int) -> None:
        """Hold another page in place of one that holds the same."""
        if self.pages[place] != page:
            self.pool.share(page)
            self.pool.give_back(self.pages[place])
            self.pages[place] = page

    def missing(self, start: int, end: int) -> int:
        """Pages that `write` would take."""
        begun = start // self.covered
        copied = begun < len(self.pages) and self.pool.users(self.pages[begun]) > 1
        return max(0, -(-end // self.covered) - len(self.pages)) + copied

    def write(self, start: int, end: int) -> None:
        """Make sure of pages of one's own from position `start` to before `end`."""
        begun = start // self.covered
        if begun < len(self.pages):
            self.pages[begun] = self.pool.own(self.pages[begun])
        while len(self.pages) * self.covered < end:
            self.pages.append(self.pool.take())

    def give_back(self, first: int, last: int) -> None:
        """Do without the pages from the first to before the last of some."""
        for place in range(max(first, self._n_behind), last):
            if self.pages[place] != GONE:
                self.pool.give_back(self.pages[place])
                self.pages[place] = GONE
        self._n_behind = max(self._n_behind, last)

    def truncate(self, length: int) -> None:
        """Give back the pages behind the first `length` positions."""
        kept = -(-length // self.covered)
        for page in self.pages[kept:]:
            if page != GONE:
                self.pool.give_back(page)
        del self.pages[kept:]
        self._n_behind = 0
