"""How many pages may still be taken, and what is given up for them."""

from collections.abc import Callable, Sequence

from deepseek.engine.radix import RadixTree
from deepseek.model.decoder import NativeDecoder

ENDLESS = 1 << 40


class Room:
    """The pages of a decoder that nobody needs."""

    def __init__(
        self,
        decoder: NativeDecoder,
        tree: RadixTree,
        n_pages: int,
        reclaim: Callable[[], bool] | None = None,
    ) -> None:
        """Look after them.

        Args:
            decoder: Has the pools.
            tree: Keeps pages as long as nobody needs them.
            n_pages: Of keys and values that may be in use.
            reclaim: Asked to give back what else holds pages; False: there is nothing.
        """
        self._pool, self._memory, self._tree = decoder.pool, decoder.memory, tree
        self._n_pages = n_pages
        self.reclaim = reclaim or (lambda: False)

    def find(self, missing: Sequence[tuple[int, int]]) -> bool:
        """Make sure that pages are free; give up what is kept only if that suffices.

        Args:
            missing: How many of keys and values, and of memory nodes, for each of some sequences.
        """
        keys, nodes = (sum(kind) for kind in zip(*missing, strict=True))
        if self.n_free < keys and self.n_free + self._tree.n_unused < keys:
            self.reclaim()
            if self.n_free + self._tree.n_unused < keys:
                return False
        while self.n_free < keys:
            self._tree.evict()
        while self.n_free_nodes < nodes:
            # A page of memory nodes may be the tree's alone, though its keys are in use.
            if not (self._tree.evict() or self.reclaim() or self._tree.evict(used_too=True)):
                return False
        return True

    @property
    def n_free(self) -> int:
        """Pages of keys and values that may be taken at once."""
        most = self._pool.most
        return (self._n_pages if most is None else min(self._n_pages, most)) - self._pool.n_used

    @property
    def n_free_nodes(self) -> int:
        """Pages of memory nodes that may be taken at once."""
        memory = self._memory
        return ENDLESS if memory is None or memory.most is None else memory.most - memory.n_used
