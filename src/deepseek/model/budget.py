"""How long a context fits a memory budget: weights, cache and working memory, from the config."""

from dataclasses import dataclass

from deepseek.core.errors import ConfigError
from deepseek.model.config import ModelConfig
from deepseek.model.pages import COVERED
from deepseek.ops.hierarchical import PAGE, TOGETHER

KV_FORMATS = {"bfloat16": 2.0}
"""Bytes that a number of the cache takes, in the order in which formats are tried."""
ROWS = 1_024  # tokens of a pass
PARTIAL_BYTES = 32 << 20  # sums of spans of keys that are computed at once (mix.cpp)
FIXED_BYTES = 64 << 20  # threads, the tokenizer's tables, sampling, what allocators keep
TEXT_BYTES = 500  # a token's ids, characters and offsets while a prompt is encoded
SPARE_NODES = 32  # pages of memory nodes for sequences side by side: each has one of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How memory is shared out, in bytes and pages."""

    kv_format: str
    context_window: int
    n_pages: int
    """Most pages of keys and values."""
    n_node_pages: int
    """Most pages of memory nodes, if there are any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What is known before loading."""

    config: ModelConfig
    n_bytes: int
    """The budget."""
    taken: int
    """What the process holds already."""
    weights: int

    def tokens(self, context_window: int, number: float) -> int:
        """Bytes for a cache of that many tokens with numbers of that size, and to work on it."""
        n_pages = -(-context_window // PAGE)
        n_nodes = n_pages * PAGE // COVERED + 1
        cache = n_pages * self.page_bytes(number) + (n_nodes + SPARE_NODES) * self.node_bytes
        return cache + self._working(n_pages)

    def page_bytes(self, number: float) -> int:
        """Bytes of a page of keys and values."""
        config = self.config
        return int(2 * number * config.n_layers * config.n_kv_heads * PAGE * config.d_head)

    @property
    def node_bytes(self) -> int:
        """Bytes of a page of memory nodes, which are in bfloat16."""
        return self.page_bytes(KV_FORMATS["bfloat16"]) // 2

    def _working(self, n_pages: int) -> int:
        config = self.config
        query, group = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
        numbers = 5 * config.d_model + 2 * query + 2 * group + 2 * config.d_ff
        rounded = max(config.d_ff, config.d_model, query) * 2
        votes = 2 * ROWS // TOGETHER * config.n_kv_heads * n_pages * 4
        logits = 4 * 4 * config.vocab_size
        text = n_pages * PAGE * TEXT_BYTES
        return ROWS * (4 * numbers + rounded) + votes + logits + text + PARTIAL_BYTES + FIXED_BYTES


def plan(needs: Needs, context_window: int | None) -> Budget:
    """Share a budget out.

    Args:
        needs: What takes memory.
        context_window: Tokens that are wanted; None: those of the trained window that fit.

    Raises:
        ConfigError: It does not suffice.
    """
    fixed = needs.taken + needs.weights
    room = needs.n_bytes - fixed
    wanted = context_window or needs.config.context_window
    fitting = {name: _longest(needs, room, number) for name, number in KV_FORMATS.items()}
    for name in KV_FORMATS:
        window = min(wanted, fitting[name]) if context_window is None else wanted
        if 0 < window <= fitting[name]:
            most = fitting[name]
            return Budget(
                kv_format=name,
                context_window=window,
                n_pages=-(-most // PAGE),
                n_node_pages=-(-most // COVERED) + SPARE_NODES,
            )
    smallest = min(KV_FORMATS.values())
    longest = max(fitting.values())
    total = fixed + needs.tokens(wanted, smallest)
    hint = f"up to {longest:,} tokens fit" if longest >= PAGE else "use a smaller checkpoint"
    raise ConfigError(
        f"{wanted:,} tokens need {total / 2**20:,.0f} MiB (weights {needs.weights / 2**20:,.0f}, "
        f"the program itself {needs.taken / 2**20:,.0f}), the memory budget is "
        f"{needs.n_bytes / 2**20:,.0f} MiB",
        f"{hint}, or give more with memory_budget (--memory-budget)",
    )


def _longest(needs: Needs, room: int, number: float) -> int:
    """Most tokens, in whole pages, whose cache fits; 0 if none do."""
    low, high = 0, room // max(1, needs.page_bytes(number)) + 1
    while low < high:
        middle = (low + high + 1) // 2
        if needs.tokens(middle * PAGE, number) <= room:
            low = middle
        else:
            high = middle - 1
    return max(0, low) * PAGE
