"""How long a context fits a memory budget: weights, cache and working memory, from the config."""

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.core.errors import ConfigError
from deepseek.model.config import ModelConfig
from deepseek.model.memory_plan import MIB, MemoryPlan, Share, described
from deepseek.ops.cold import BITS, choose_tier, page_bytes
from deepseek.ops.hierarchical import GROUP, PAGE, QUESTION, TOGETHER, Hierarchy

KV_FORMATS = tuple(BITS)
"""How keys and values may be kept, in the order in which formats are tried."""
ROWS = 1_024  # tokens of a pass
PARTIAL_BYTES = 32 << 20  # sums of spans of keys that are computed at once (mix.cpp)
FIXED_BYTES = 64 << 20  # threads, the tokenizer's tables, sampling, what allocators keep
TEXT_BYTES = 500  # a token's ids, characters and offsets while a prompt is encoded
SPARE_NODES = 32  # pages of memory nodes for sequences side by side: each has one of its own
EXPANDED = 64 + 4  # cold pages that a thread has in bfloat16 (hierarchy.cpp, mix.cpp)
LOGIT_ROWS = 32 + 31  # of a pass: the most requests side by side, and the most guesses
CONTEXT_PAGES = 2  # of a saved context on their way between a file and a pool


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCounts:
    """Most pages of each kind."""

    hot: int
    """Of keys and values as they are."""
    cold: int = 0
    """Of those in 8 or 4 bits."""
    nodes: int = 0
    """Of memory nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How memory is shared out."""

    kv_format: str
    context_window: int
    pages: PageCounts
    peak_bytes: int
    """What the process holds at most with one sequence as long as the window."""
    plan: MemoryPlan | None = None
    """Everything that is counted, with pages for others beside that sequence."""
    least: PageCounts | None = None
    """Pages that one sequence takes; None: as many as the window has."""

    @property
    def least_hot(self) -> int:
        """Pages of keys and values as they are without which no window could be read."""
        return -(-self.context_window // PAGE) if self.least is None else self.least.hot


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What is known before loading."""

    config: ModelConfig
    n_bytes: int
    """The budget."""
    taken: int
    """What the process holds already."""
    weights: int
    has_nodes: bool = True
    """Whether there are memory nodes, for hierarchical attention."""
    n_threads: int = 1
    is_on_disk: bool = False
    """Whether cold pages take no memory."""
    others: tuple[Share, ...] = ()
    """What else is counted: a draft model, copies of pages."""

    def peak(self, context_window: int, kv_format: str) -> int:
        """Bytes that the process holds at most with one sequence of that many tokens."""
        pages = self.pages(context_window, kv_format)
        return sum(share.n_bytes for share in self.shares(pages, context_window, kv_format))

    def shares(self, pages: PageCounts, context_window: int, kv_format: str) -> tuple[Share, ...]:
        """All that is counted, with that many pages and one sequence of that many tokens.

        Beside it, each page more has tokens that are encoded.
        """
        hot, cold, nodes = self._page_bytes(kv_format)
        of_one = self.pages(context_window, kv_format).hot
        n_text = -(-context_window // PAGE) + pages.hot - of_one
        kinds = (
            ("keys and values", pages.hot, hot),
            (f"keys and values in {kv_format}", pages.cold, cold),
            ("memory nodes", pages.nodes, nodes),
        )
        return (
            Share("the program itself", self.taken, "before the weights"),
            Share("weights", self.weights),
            *self.others,
            *(Share(name, n * size, f"{n:,} pages of {size:,}") for name, n, size in kinds if n),
            Share("working memory", self.working_bytes(context_window, kv_format)),
            Share("texts and their tokens", n_text * PAGE * TEXT_BYTES),
            Share("a saved context on its way", CONTEXT_PAGES * max(hot, cold, nodes)),
            Share("threads and allocators", FIXED_BYTES),
        )

    def pages(self, context_window: int, kv_format: str) -> PageCounts:
        """Pages of one sequence of that many tokens while it is read."""
        n_pages = -(-context_window // PAGE)
        nodes = -(-n_pages // GROUP) + SPARE_NODES if self.has_nodes else 0
        tier = choose_tier(kv_format)
        if tier is None:
            return PageCounts(hot=n_pages, nodes=nodes)
        return PageCounts(hot=tier.at_once(n_pages, ROWS), cold=n_pages, nodes=nodes)

    def cache_bytes(self, pages: PageCounts, kv_format: str) -> int:
        """Bytes of that many pages."""
        hot, cold, nodes = self._page_bytes(kv_format)
        return pages.hot * hot + pages.cold * cold + pages.nodes * nodes

    def longest(self, kv_format: str) -> int:
        """Most tokens, in whole pages, that fit; 0 if none do."""
        low, high = 0, max(0, self.n_bytes) // (PAGE * TEXT_BYTES) + 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.peak(middle * PAGE, kv_format) <= self.n_bytes:
                low = middle
            else:
                high = middle - 1
        return low * PAGE

    def with_spare(self, context_window: int, kv_format: str) -> PageCounts:
        """Pages for a context of that length, and of what is left more for others beside it."""
        pages = self.pages(context_window, kv_format)
        hot, cold, nodes = self._page_bytes(kv_format)
        left = self.n_bytes - self.peak(context_window, kv_format)
        node = nodes / GROUP if self.has_nodes else 0
        spare = int(left // (hot + cold + node + PAGE * TEXT_BYTES))
        return PageCounts(
            hot=pages.hot + spare,
            cold=pages.cold + spare if pages.cold else 0,
            nodes=pages.nodes + spare // GROUP if self.has_nodes else 0,
        )

    def _page_bytes(self, kv_format: str) -> tuple[int, int, int]:
        """Of a page as it is, of a cold one, and of one of memory nodes."""
        config, bits = self.config, BITS[kv_format]
        heads = config.n_layers * config.n_kv_heads
        keys = heads * PAGE * config.d_head * 2
        cold = 0
        if bits is not None and not self.is_on_disk:
            cold = 2 * heads * page_bytes(bits, config.d_head)
        return 2 * keys, cold, keys

    def working_bytes(self, context_window: int, kv_format: str) -> int:
        """What passes of the model write between its layers, and their logits."""
        config, n_pages = self.config, -(-context_window // PAGE)
        query, group = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
        numbers = 5 * config.d_model + 2 * query + 2 * group + 2 * config.d_ff
        rounded = max(config.d_ff, config.d_model, query) * 2
        n_choosing = ROWS // TOGETHER + QUESTION
        votes = 2 * n_choosing * config.n_kv_heads * n_pages * 4 if self.has_nodes else 0
        scanned = min(n_pages, Hierarchy().scanned_pages)
        votes += QUESTION * config.n_heads * scanned * 2 * 4 if self.has_nodes else 0
        if self.has_nodes and n_pages > scanned:  # weights by memory nodes, and votes to hand on
            votes += QUESTION * (config.n_heads + config.n_kv_heads) * n_pages * 4
        logits = 4 * LOGIT_ROWS * config.vocab_size
        expanded = self.n_threads * EXPANDED * 2 * PAGE * config.d_head * 2
        partial = PARTIAL_BYTES + (expanded if BITS[kv_format] else 0)
        return ROWS * (4 * numbers + rounded) + votes + logits + partial


def choose_format(needs: Needs, wanted: int, formats: Sequence[str] = KV_FORMATS) -> str:
    """The first format in which that many tokens fit, else the one in which most do."""
    fitting = (name for name in formats if needs.peak(wanted, name) <= needs.n_bytes)
    return next(fitting, None) or max(formats, key=needs.longest)


def plan(needs: Needs, context_window: int | None, kv_dtype: str = "auto") -> Budget:
    """Share a budget out.

    Args:
        needs: What takes memory.
        context_window: Tokens that are wanted; None: those of the trained window that fit.
        kv_dtype: How keys and values are kept; `auto`: as exactly as the tokens' number allows.

    Raises:
        ConfigError: It does not suffice.
    """
    wanted = context_window or needs.config.context_window
    formats = KV_FORMATS if kv_dtype == "auto" else (kv_dtype,)
    chosen = choose_format(needs, wanted, formats)
    longest = needs.longest(chosen)
    if longest < wanted and (context_window is not None or not longest):
        raise _too_small(needs, wanted, chosen)
    window = min(wanted, longest)
    pages = needs.with_spare(window, chosen)
    return Budget(
        kv_format=chosen,
        context_window=window,
        pages=pages,
        peak_bytes=needs.peak(window, chosen),
        plan=MemoryPlan(needs.n_bytes, needs.shares(pages, window, chosen)),
        least=needs.pages(window, chosen),
    )


def _too_small(needs: Needs, wanted: int, kv_format: str) -> ConfigError:
    longest = needs.longest(kv_format)
    most, other = max((needs.longest(name), name) for name in KV_FORMATS)
    hint = f"up to {longest:,} tokens fit" if longest else "use a smaller checkpoint"
    if most > longest:
        hint = f"{hint}, {most:,} with kv_dtype {other}" if longest else f"use kv_dtype {other}"
    shares = needs.shares(needs.pages(wanted, kv_format), wanted, kv_format)
    return ConfigError(
        f"{wanted:,} tokens need {needs.peak(wanted, kv_format) / MIB:,.0f} MiB with keys and "
        f"values in {kv_format} ({described(shares)}), the memory budget is "
        f"{needs.n_bytes / MIB:,.0f} MiB",
        f"{hint}, or give more with memory_budget (--memory-budget)",
    )
