"""Keys and values in pages that sequences share as long as none of them writes there."""

from array import array
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from deepseek.core.errors import RequestError
from deepseek.model.config import ModelConfig
from deepseek.model.context_file import check_numbers
from deepseek.ops.hierarchical import GROUP, PAGE
from deepseek.ops.native_model import NewTokens, Pages

COVERED = PAGE * GROUP
"""Positions whose memory nodes lie in one page of them."""
LAYOUT = "bfloat16 pairs"
"""How numbers lie in a page (`attention.h`), the same on all processors. Saved contexts name it."""


class PagePool:
    """All pages of one model, in bfloat16. It grows; a page that nobody uses is used again."""

    def __init__(
        self, config: ModelConfig, *, has_values: bool = True, most: int | None = None
    ) -> None:
        """Make a pool.

        Args:
            config: Of the model.
            has_values: Whether a page holds keys and values, or memory nodes, which lie like keys.
            most: Pages that it has once and for all; None: it grows.
        """
        self._most = most
        self._shape = (config.n_kv_heads, PAGE, config.d_head)
        self._keys: list[Tensor] = [torch.empty(0)] * config.n_layers
        self._values: list[Tensor] = [torch.empty(0)] * (config.n_layers if has_values else 0)
        self._users: list[int] = []
        self._free: list[int] = []
        self._grow()

    @property
    def n_used(self) -> int:
        """Pages that a sequence holds."""
        return len(self._users) - len(self._free)

    @property
    def n_bytes(self) -> int:
        """Bytes reserved."""
        return sum(t.nbytes for t in (*self._keys, *self._values))

    def take(self) -> int:
        """A page for one user; what it holds is undefined.

        Raises:
            RequestError: The pool may not grow any more.
        """
        if not self._free:
            self._grow()
        page = self._free.pop()
        self._users[page] = 1
        return page

    def share(self, page: int) -> int:
        """The same page, for one more user."""
        self._users[page] += 1
        return page

    def give_back(self, page: int) -> None:
        """One user less."""
        self._users[page] -= 1
        if not self._users[page]:
            self._free.append(page)

    @torch.no_grad()
    def own(self, page: int) -> int:
        """The page if it has one user, else a copy for one of its users."""
        if self._users[page] == 1:
            return page
        copy = self.take()
        for tensor in (*self._keys, *self._values):
            tensor[copy] = tensor[page]
        self.give_back(page)
        return copy

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return sum(t[0].nbytes for t in (*self._keys, *self._values))

    def read(self, page: int, n_vectors: int = PAGE) -> UInt8[Tensor, " N"]:
        """What a page holds: of each layer the keys, then the values.

        Args:
            page: Its number.
            n_vectors: Of memory nodes, how many were written; the others become zero.
        """
        whole = torch.stack([t[page] for pair in self._layers() for t in pair])
        if n_vectors < PAGE:
            whole.view(*whole.shape[:2], -1, PAGE, 2)[:, :, :, n_vectors:] = 0
        return whole.view(-1).view(torch.uint8)

    def write(self, page: int, content: UInt8[Tensor, " N"]) -> None:
        """Put there what `read` gave.

        Raises:
            ContextError: It holds what no model computes.
        """
        tensors = [t for pair in self._layers() for t in pair]
        whole = content.view(torch.bfloat16).view(len(tensors), *self._shape)
        check_numbers(whole)
        for tensor, part in zip(tensors, whole, strict=True):
            tensor[page] = part

    def _layers(self) -> Iterator[tuple[Tensor, ...]]:
        return zip(self._keys, self._values, strict=True) if self._values else zip(self._keys)

    @torch.no_grad()
    def _grow(self) -> None:
        had = len(self._users)
        size = had + max(had // 2, 16)
        if self._most is not None:
            # At once: the system gives memory when it is written to, and growing would leave gaps.
            size = self._most
            if size <= had:
                raise RequestError(
                    f"all {had:,} pages of memory are in use, and the memory budget allows no more",
                    "ask fewer or shorter prompts at once, or give a larger memory budget",
                )
        # Layer by layer, so that old and new never exist for the whole pool at once.
        for tensors in (self._keys, self._values):
            for layer, old in enumerate(tensors):
                new = torch.empty((size, *self._shape), dtype=torch.bfloat16)
                if had:
                    new[:had] = old
                tensors[layer] = new
        head = PAGE * self._shape[2]
        self.pages = Pages(
            keys=tuple(self._keys),
            values=tuple(self._values),
            page_stride=self._shape[0] * head,
            head_stride=head,
            n_pages=size,
        )
        """Where everything is, until it grows."""
        self._users += [0] * (size - had)
        self._free += range(size - 1, had - 1, -1)


class PagedSequence:
    """The pages of one sequence, and those of its memory nodes if it has any."""

    def __init__(self, pool: PagePool, memory: PagePool | None = None) -> None:
        """Begin an empty one.

        Args:
            pool: Has pages for keys and values.
            memory: Has pages for memory nodes; None: the sequence has none.
        """
        self._keys = Table("keys and values", pool, PAGE)
        self._memory = None if memory is None else Table("memory nodes", memory, COVERED)
        self.length = 0

    @property
    def tables(self) -> "tuple[Table, ...]":
        """Its pages by kind."""
        return (self._keys,) if self._memory is None else (self._keys, self._memory)

    def fork(self, length: int) -> "PagedSequence":
        """A sequence that begins with the first `length` tokens of this one."""
        assert 0 <= length <= self.length
        fork = PagedSequence(self._keys.pool)
        fork._keys = self._keys.fork(length)
        fork._memory = None if self._memory is None else self._memory.fork(length)
        fork.length = length
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
        return NewTokens(count=n_tokens, length=self.length, pages=self._keys.pages, memory=memory)

    def advance(self, n_tokens: int) -> None:
        """Count tokens that were written."""
        self.length += n_tokens

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` tokens.

        Raises:
            ValueError: There are fewer.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate {self.length} tokens to {length}")
        self._keys.truncate(length)
        if self._memory is not None:
            self._memory.truncate(length)
        self.length = length

    def release(self) -> None:
        """Give all pages back."""
        self.truncate(0)


class Table:
    """The pages of a sequence in one pool, each for as many positions."""

    layout = LAYOUT

    def __init__(self, name: str, pool: PagePool, covered: int) -> None:
        self.name, self.pool, self.covered = name, pool, covered
        self.pages = array("i")

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return self.pool.page_bytes

    def read(self, place: int, n_positions: int) -> UInt8[Tensor, " N"]:
        """What the page at a place holds for the first `n_positions` of the sequence."""
        filled = min(self.covered, n_positions - place * self.covered)
        return self.pool.read(self.pages[place], filled * PAGE // self.covered)

    def append(self, content: UInt8[Tensor, " N"]) -> None:
        """Add a page that `read` gave.

        Raises:
            ContextError: It holds what no model computes.
        """
        self.pages.append(self.pool.take())
        self.pool.write(self.pages[-1], content)

    def fork(self, length: int) -> "Table":
        """A table that begins with the pages of the first `length` positions."""
        fork = Table(self.name, self.pool, self.covered)
        kept = self.pages[: -(-length // self.covered)]
        fork.pages = array("i", map(self.pool.share, kept))
        return fork

    def write(self, start: int, end: int) -> None:
        """Make sure of pages of one's own from position `start` to before `end`."""
        begun = start // self.covered
        if begun < len(self.pages):
            self.pages[begun] = self.pool.own(self.pages[begun])
        while len(self.pages) * self.covered < end:
            self.pages.append(self.pool.take())

    def truncate(self, length: int) -> None:
        """Give back the pages behind the first `length` positions."""
        kept = -(-length // self.covered)
        for page in self.pages[kept:]:
            self.pool.give_back(page)
        del self.pages[kept:]
