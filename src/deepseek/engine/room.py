"""How many pages may still be taken, and what is given up for them."""

from collections.abc import Callable, Sequence

from deepseek.engine.radix import RadixTree
from deepseek.model.decoder import NativeDecoder
from deepseek.model.pages import Missing, PagePool

ENDLESS = 1 << 40


class Room:
    """The pages of a decoder that nobody needs."""

    def __init__(
        self,
        decoder: NativeDecoder,
        tree: RadixTree,
        n_pages: int,
        reclaim: Callable[[], bool] | None = None,
        n_cold: int = ENDLESS,
    ) -> None:
        """Look after them.

        Args:
            decoder: Has the pools.
            tree: Keeps pages as long as nobody needs them.
            n_pages: Of keys and values that may be in use.
            reclaim: Asked to give back what else holds pages; False: there is nothing.
            n_cold: Cold pages that may be in use.
        """
        self._pool, self._memory, self._cold = decoder.pool, decoder.memory, decoder.cold
        self._n_pages, self._n_cold, self._tree = n_pages, n_cold, tree
        self.reclaim = reclaim or (lambda: False)

    def find(self, missing: Sequence[Missing]) -> bool:
        """Make sure that pages are free; give up what is kept only if that suffices.

        Args:
            missing: How many of each kind, for each of some sequences.
        """
        keys, nodes, cold = (sum(kind) for kind in zip(*missing, strict=True))
        if not self._could_find(keys, cold):
            self.reclaim()
            if not self._could_find(keys, cold):
                return False
        while self.n_free < keys:
            self._tree.give_up()
        while self.n_free_cold < cold:
            self._tree.evict()
        while self.n_free_nodes < nodes:
            # A page of memory nodes may be the tree's alone, though its keys are in use.
            if not (self._tree.evict() or self.reclaim() or self._tree.evict(used_too=True)):
                return False
        return True

    def _could_find(self, keys: int, cold: int) -> bool:
        """Whether so many pages are free, or would be without the tree."""
        free, free_cold = self.n_free, self.n_free_cold
        return (free >= keys or free + self._tree.n_unused >= keys) and (
            free_cold >= cold or free_cold + self._tree.n_unused_cold >= cold
        )

    @property
    def n_free(self) -> int:
        """Pages of keys and values that may be taken at once."""
        return _free(self._pool, self._n_pages)

    @property
    def n_free_cold(self) -> int:
        """Cold pages that may be taken at once."""
        return ENDLESS if self._cold is None else _free(self._cold, self._n_cold)

    @property
    def n_free_nodes(self) -> int:
        """Pages of memory nodes that may be taken at once."""
        return ENDLESS if self._memory is None else _free(self._memory, ENDLESS)


def _free(pool: PagePool, n_pages: int) -> int:
    """Pages that a pool has left of some, or of those that there may be."""
    return (n_pages if pool.most is None else min(n_pages, pool.most)) - pool.n_used
