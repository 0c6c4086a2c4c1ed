"""A memory budget while an engine runs: what is loaded later takes the place of spare pages.

Pools of pages are reserved when a model is loaded, and take all that the budget leaves. An adapter
gets its memory from pages that no window needs; they come back when it is unloaded.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from deepseek.core.errors import ConfigError
from deepseek.model.budget import Budget
from deepseek.model.memory_plan import MIB, MemoryPlan, Share
from deepseek.model.pages import PagePool

KEYS = "keys and values"
WHILE_READ = 4
"""An adapter's tensors are in its file, which is mapped, in float32 and as the library keeps them
at the same time: of a file in bfloat16, four times its bytes."""


@dataclass(slots=True, eq=False)
class Held:
    """What took the place of pages."""

    name: str
    n_bytes: int
    pages: list[int]


class Memory:
    """Who takes what of a budget. Methods are called in a turn."""

    def __init__(self, budget: Budget, pool: PagePool, give_way: Callable[[], bool]) -> None:
        """Begin as planned.

        Args:
            budget: As the pools were made by.
            pool: Of keys and values as they are.
            give_way: Asked to give pages back; False: there are none to give.
        """
        self._budget, self._pool, self._give_way = budget, pool, give_way
        self._held: list[Held] = []

    @property
    def plan(self) -> MemoryPlan | None:
        """What is counted now; None: the budget was made without a plan."""
        plan = self._budget.plan
        if plan is None or self._pool.most is None:
            return plan
        n_pages, size = self._pool.most, self._pool.page_bytes
        pages = Share(KEYS, n_pages * size, f"{n_pages:,} pages of {size:,}")
        kept = tuple(pages if share.name == KEYS else share for share in plan.shares)
        return replace(plan, shares=(*kept, *(Share(h.name, h.n_bytes) for h in self._held)))

    def take(self, name: str, n_bytes: int) -> Held:
        """Make room for something.

        Raises:
            ConfigError: That would leave too few pages for the context window.
        """
        pool = self._pool
        assert pool.most is not None, "a budget's pools are bounded"
        n_spare = pool.most - self._budget.least_hot
        n_pages = -(-n_bytes // pool.page_bytes)
        while n_pages <= n_spare:
            if pages := pool.withdraw(n_bytes) if pool.n_free >= n_pages else []:
                if len(pages) > n_spare:  # a page's memory does not come back whole
                    pool.put_back(pages)
                    break
                held = Held(name, n_bytes, pages)
                self._held.append(held)
                return held
            if not self._give_way():
                break
        raise self._too_small(name, n_bytes, max(0, n_spare) * pool.page_bytes)

    def shrink(self, held: Held, n_bytes: int) -> None:
        """Something takes less from now on."""
        self._pool.put_back(held.pages)
        held.pages = self._pool.withdraw(n_bytes)
        held.n_bytes = n_bytes

    def give_back(self, held: Held) -> None:
        """Something is gone."""
        self._held.remove(held)
        self._pool.put_back(held.pages)

    def _too_small(self, name: str, n_bytes: int, left: int) -> ConfigError:
        held = "".join(f", {h.name} {h.n_bytes / MIB:,.1f}" for h in self._held)
        budget = self._budget
        size = "" if budget.plan is None else f" of {budget.plan.n_bytes / MIB:,.0f} MiB"
        return ConfigError(
            f"{name} needs {n_bytes / MIB:,.1f} MiB, and the memory budget{size} has "
            f"{left / MIB:,.1f} left beside a context window of {budget.context_window:,} tokens"
            f"{held}",
            "unload another adapter, load the model with a smaller context_window, or give more "
            "with memory_budget (--memory-budget)",
        )


def reading_bytes(folder: Path) -> int:
    """What an adapter takes while it is read, by the size of its file; 0 if there is none."""
    file = folder / "adapter_model.safetensors"
    return WHILE_READ * file.stat().st_size if file.is_file() else 0
