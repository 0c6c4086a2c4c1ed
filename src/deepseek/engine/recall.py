"""What an answer recalled of its prompt, page by page."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from deepseek.core.errors import RequestError
from deepseek.core.llm import Completion
from deepseek.engine.runner import Runner, first_asking
from deepseek.ops.hierarchical import PAGE
from deepseek.tokenizer.tokenizer import Tokenizer

LOOKED_AT = 64
"""Last tokens of a prompt whose choices are noted: most questions have fewer."""
EVERY = 4
"""Of them, how many are passed over for each that is noted."""


class RecallCounts:
    """How often each page was chosen while something is read and generated, in a `with` block."""

    def __init__(self, runner: Runner, n_prompt: int) -> None:
        """Make it.

        Raises:
            RequestError: Nothing of such a prompt is recalled.
        """
        hierarchy = runner.hierarchy
        if hierarchy is None:
            raise RequestError(
                "with dense attention every token sees all: nothing is recalled",
                "use hierarchical attention, or a context window beyond the trained one",
            )
        if n_prompt <= hierarchy.n_dense:
            raise RequestError(
                f"a prompt of {n_prompt:,} tokens is seen whole; recall begins after "
                f"{hierarchy.dense:,}",
                "give a longer prompt",
            )
        config = runner.model.config
        self._runner, n_pages = runner, -(-n_prompt // PAGE)
        self.counts: Int[Tensor, "L G P"] = torch.zeros(
            (config.n_layers, config.n_kv_heads, n_pages), dtype=torch.long
        )
        self.n_looks = 0
        """Of every fourth of the prompt's last tokens, and of the answer's tokens."""

    def __enter__(self) -> "RecallCounts":
        self._runner.watch(True)
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.watch(False)

    def read(
        self, token_ids: list[int], on_progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Read a prompt as `Runner.read` does, and note what its last tokens recall.

        A pass notes its last queries only. Tokens that ask choose each for itself, so that they
        can be read a few at a time.
        """
        end, runner = len(token_ids), self._runner
        first = max(first_asking(end), end - LOOKED_AT)
        runner.fill(token_ids[: first_asking(end)], on_progress)
        runner.asks_from = first_asking(end)
        logits = torch.empty(0)
        for stop in reversed(range(end, first, -EVERY)):
            logits = runner.extend(token_ids[len(runner.tokens) : stop])[-1]
            self.note()
        return logits

    def note(self) -> None:
        """Count what the last pass recalled."""
        recalled = self._runner.recalled()
        if recalled is None or not bool((recalled >= 0).any()):
            return  # these tokens see everything
        chosen = recalled.long()
        # What the answer recalls of itself is none of the prompt's pages.
        is_page = (chosen >= 0) & (chosen < self.counts.shape[2])
        self.counts.scatter_add_(2, torch.where(is_page, chosen, 0), is_page.long())
        self.n_looks += 1


@dataclass(frozen=True, slots=True)
class RecalledPage:
    """A page of the prompt that was recalled."""

    number: int
    share: float
    """Of all choices that could have been this page: 1 if all layers and groups always chose it."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """An answer and what it recalled of its prompt."""

    model: str
    attention: str
    """What tokens see, for people."""
    completion: Completion
    counts: Int[Tensor, "L G P"]
    """How often each layer and group of heads chose each page of the prompt."""
    n_looks: int
    """How often each could choose."""
    n_sinks: int
    """Pages at the beginning that are always seen."""
    n_window: int
    """Pages at the prompt's end that its last token sees anyway."""
    texts: tuple[str, ...]
    """The prompt, page by page."""

    @property
    def shares(self) -> list[float]:
        """For each page, in how many of all choices it was."""
        n_layers, n_groups, _ = self.counts.shape
        return (self.counts.sum((0, 1)) / (n_layers * n_groups * self.n_looks)).tolist()

    @property
    def layer_shares(self) -> list[list[float]]:
        """The same for each layer."""
        return (self.counts.sum(1) / (self.counts.shape[1] * self.n_looks)).tolist()

    def most(self, n: int = 10) -> list[RecalledPage]:
        """The pages that were recalled most, beginning with the first of them."""
        shares = self.shares
        order = sorted(range(len(shares)), key=lambda page: -shares[page])[:n]
        return [RecalledPage(p, shares[p], self.texts[p]) for p in order if shares[p]]

    def write(self, path: str | Path) -> None:
        """Write a page for browsers that shows all this, whole or not at all.

        Raises:
            RequestError: The place cannot be written.
        """
        from deepseek.engine.recall_page import render_recall
        from deepseek.weights.cache import write_atomically

        try:
            write_atomically(Path(path), render_recall(self).encode("utf-8", "replace"))
        except OSError as error:
            raise RequestError(
                f"cannot write {path}: {error.strerror}", "choose another place"
            ) from None


def recall_of(
    counts: RecallCounts,
    runner: Runner,
    tokenizer: Tokenizer,
    prompt_ids: list[int],
    *,
    model: str,
    completion: Completion,
) -> Recall:
    """Everything together."""
    hierarchy = runner.hierarchy
    assert hierarchy is not None
    page, n_pages = (len(prompt_ids) - 1) // PAGE, -(-len(prompt_ids) // PAGE)
    texts = [
        tokenizer.decode(prompt_ids[p * PAGE : (p + 1) * PAGE], skip_control=False)
        for p in range(n_pages)
    ]
    return Recall(
        model=model,
        attention=hierarchy.describe(),
        completion=completion,
        counts=counts.counts,
        n_looks=max(1, counts.n_looks),
        n_sinks=hierarchy.sinks_end(page),
        n_window=n_pages - hierarchy.window_start(page),
        texts=tuple(texts),
    )
