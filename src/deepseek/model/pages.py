"""Keys and values in pages that sequences share as long as none of them writes there."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deepseek.model.config import ModelConfig
from deepseek.ops.native_model import PAGE, NewTokens, Pages


class PagePool:
    """All pages of one model, in bfloat16. It grows; a page that nobody uses is used again."""

    def __init__(self, config: ModelConfig) -> None:
        self._shape = (config.n_kv_heads, PAGE, config.d_head)
        self._keys: list[Tensor] = [torch.empty(0)] * config.n_layers
        self._values: list[Tensor] = [torch.empty(0)] * config.n_layers
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
        """A page for one user; what it holds is undefined."""
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

    @torch.no_grad()
    def _grow(self) -> None:
        had = len(self._users)
        size = had + max(had // 2, 16)
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
    """The pages of one sequence."""

    def __init__(self, pool: PagePool, pages: Sequence[int] = (), length: int = 0) -> None:
        self._pool = pool
        self._pages = list(pages)
        self.length = length

    def fork(self, length: int) -> "PagedSequence":
        """A sequence that begins with the first `length` tokens of this one."""
        assert 0 <= length <= self.length
        pages = [self._pool.share(page) for page in self._pages[: -(-length // PAGE)]]
        return PagedSequence(self._pool, pages, length)

    def extend(self, n_tokens: int) -> NewTokens:
        """Make room for new tokens; call `advance` once they are there."""
        last = self.length // PAGE
        if self.length % PAGE:
            self._pages[last] = self._pool.own(self._pages[last])
        while len(self._pages) * PAGE < self.length + n_tokens:
            self._pages.append(self._pool.take())
        return NewTokens(count=n_tokens, length=self.length, pages=self._pages)

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
        kept = -(-length // PAGE)
        for page in self._pages[kept:]:
            self._pool.give_back(page)
        del self._pages[kept:]
        self.length = length

    def release(self) -> None:
        """Give all pages back."""
        self.truncate(0)
