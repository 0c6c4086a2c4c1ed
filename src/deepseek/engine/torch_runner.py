"""The runner through torch: any device, any precision."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deepseek.core.errors import ConfigError, RequestError
from deepseek.core.llm import ExpertsUsed
from deepseek.engine.packing import ForkCache, SlotCache
from deepseek.engine.runner import Runner, Slots, places_of_ends
from deepseek.model.adapter import Additions, Parts, TorchAdapter, shape_of
from deepseek.model.budget import Budget
from deepseek.model.cache import DenseCache, KVCache
from deepseek.model.context_file import PageTable
from deepseek.model.hierarchical import HierarchicalCache
from deepseek.model.moe.budget import Budgets, ExpertBudget
from deepseek.model.transformer import Transformer
from deepseek.ops.cold import ColdTier
from deepseek.ops.hierarchical import UNTRAINED, Hierarchy, Router
from deepseek.ops.native_model import NO_ADAPTER


class TorchRunner(Runner):
    """Layer by layer through torch, over dense caches."""

    def __init__(
        self,
        model: Transformer,
        *,
        dtype: torch.dtype,
        device: torch.device,
        hierarchy: Hierarchy | None = None,
        tier: ColdTier | None = None,
        budget: Budget | None = None,
        router: Router = UNTRAINED,
    ) -> None:
        if tier is not None:
            raise ConfigError(
                f"keys and values in {tier.bits} bits work with the native library only",
                "use a quantised model on a CPU, or leave --kv-dtype at bfloat16",
            )
        super().__init__(model, dtype=dtype, device=device, hierarchy=hierarchy, budget=budget)
        assert budget is None, "kept by the native runner only"
        config = model.config
        self._adapters: dict[int, TorchAdapter] = {}
        self._n_adapters = 0
        self._budget: ExpertBudget | None = None
        self._cache = (
            DenseCache(config, dtype=dtype, device=device)
            if hierarchy is None
            else HierarchicalCache(config, hierarchy, dtype=dtype, device=device, router=router)
        )

    @property
    def tier_bytes(self) -> dict[str, int]:
        """Bytes reserved for `hot` keys and values and for `memory nodes`; nothing is `cold`."""
        cache = self._cache
        n_memory = cache.node_bytes if isinstance(cache, HierarchicalCache) else 0
        return {"hot": cache.n_bytes - n_memory, "cold": 0, "disk": 0, "memory nodes": n_memory}

    @property
    def tables(self) -> Sequence[PageTable]:
        """The cached sequence as pages, for saved contexts; memory nodes are made anew."""
        return self._cache.tables

    def recalled(self) -> Int[Tensor, "L G C"] | None:
        """Pages that the last queries of the last pass recalled, by layer and group of heads."""
        if not isinstance(self._cache, HierarchicalCache):
            return None
        layers = [r.pages[:, -1] for r in self._cache.recalled if r is not None]
        return torch.stack(layers).cpu() if layers else None

    def watch(self, wanted: bool) -> None:
        """Nothing to do: it is always noted."""

    def add_adapter(self, parts: Parts, fingerprint: str = "") -> int:
        """Keep an adapter, and return its number, which no other one ever gets."""
        number = self._n_adapters
        shape = shape_of(self.model.config)
        self._adapters[number] = TorchAdapter(parts, shape, self.dtype, self.device)
        self._n_adapters += 1
        return number

    def remove_adapter(self, number: int) -> None:
        """Give its memory back, and all that was read with it."""
        if self.adapter == number:
            self.use(NO_ADAPTER)
        del self._adapters[number]

    def _use(self, adapter: int) -> None:
        pass

    def _spend(self, share: float | None) -> None:
        self._budget = self.budget_of(share)

    def budget_of(self, share: float | None, fork: bool = False) -> ExpertBudget | None:
        """For a new sequence, or for one that begins as the cached one."""
        if share is None:
            return None
        if fork and self._budget is not None:
            return self._budget.fork()
        config = self.model.config
        assert config.moe is not None, "`check_experts` refuses it"
        return ExpertBudget(config.moe, config.n_layers, share)

    def experts_used(self) -> ExpertsUsed | None:
        """By the cached sequence, if it has a share."""
        return None if self._budget is None else self._budget.used()

    def _additions(self, adapters: Sequence[int], counts: Sequence[int]) -> Additions | None:
        """What is added for sequences with some numbers of new tokens."""
        if all(adapter == NO_ADAPTER for adapter in adapters):
            return None
        known = [self._adapters[a] if a != NO_ADAPTER else None for a in adapters]
        return Additions(list(zip(known, counts, strict=True)))

    @torch.inference_mode()
    def head(self, hidden: Float[Tensor, "W D"]) -> Float[Tensor, "W V"]:
        """Logits for the token after each hidden state."""
        return self.model.head(self.model.norm(hidden))  # type: ignore[no-any-return]

    def read_branches(
        self,
        beginning: Sequence[int],
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[Sequence[int]]],
    ) -> tuple[Float[Tensor, "C D"], Float[Tensor, "T D"]]:
        """All contexts and continuations in one pass."""
        self.fill(beginning)
        self._require_dense(sum(map(len, contexts)) + sum(len(c) for e in continuations for c in e))
        fork = ForkCache(
            self._cache,
            [len(context) for context in contexts],
            [[len(c) for c in each] for each in continuations],
            self.device,
        )
        row = [t for context in contexts for t in context]
        n_contexts = len(row)
        row += [t for each in continuations for c in each for t in c]
        hidden = self.run_row(row, fork, [self.adapter], [len(row)])
        return hidden[places_of_ends(contexts)], hidden[n_contexts:]

    def slots(self, beginning: Sequence[int]) -> Slots:
        """Sequences to generate side by side, after a common beginning that may be empty."""
        self.fill(beginning)
        self._require_dense(0)
        cache = SlotCache(self._cache, self.model.config, self.dtype, self.device)
        return _TorchSlots(self, cache)

    def _require_dense(self, n_new: int) -> None:
        """Branches see all of a beginning: a long one must not be read one way and seen another."""
        if self.hierarchy is not None and len(self.tokens) + n_new > self.hierarchy.dense:
            raise RequestError(
                "several requests at once do not work with hierarchical attention through torch",
                "ask one by one, or use a quantised model on a CPU",
            )

    @torch.inference_mode()
    def run_row(
        self,
        token_ids: Sequence[int],
        cache: KVCache,
        adapters: Sequence[int],
        counts: Sequence[int],
        budgets: Sequence[ExpertBudget | None] = (),
    ) -> Float[Tensor, "T D"]:
        """Hidden states of the tokens of several sequences behind each other.

        Args:
            token_ids: Of all.
            cache: Knows them.
            adapters: Numbers of their adapters.
            counts: Tokens of each.
            budgets: Of each; none: they use all experts that are chosen.
        """
        batch = torch.tensor([list(token_ids)], device=self.device)
        added, spent = self._additions(adapters, counts), _budgets(budgets, counts)
        hidden: Tensor = self.model.hidden_states(batch, cache, added, budgets=spent)
        return hidden[0]

    @torch.inference_mode()
    def _forward(self, token_ids: list[int], last: int) -> Tensor:
        batch = torch.tensor([token_ids], device=self.device)
        added = self._additions([self.adapter], [len(token_ids)])
        if self._budget is not None:
            self._budget.truncate(len(self.tokens))  # of a pass that an error ended half-way
        spent = _budgets([self._budget], [len(token_ids)])
        if last:
            logits: Tensor = self.model(batch, self._cache, last, added, budgets=spent)
            return logits[0]
        self.model.hidden_states(batch, self._cache, added, budgets=spent)
        return torch.empty(0, self.model.config.vocab_size, device=self.device)

    def prepare(self, token_ids: Sequence[int]) -> None:
        """Nothing to do: there is one cache."""

    def _leave(self, n_tokens: int) -> None:
        pass

    def _ask_from(self, position: int) -> None:
        if isinstance(self._cache, HierarchicalCache):
            self._cache.asks_from = position

    def _truncate(self, length: int) -> None:
        self._cache.truncate(length)
        if self._budget is not None:
            self._budget.truncate(length)

    def _count_restored(self, n_tokens: int) -> None:
        assert self._cache.length == n_tokens


def _budgets(each: Sequence[ExpertBudget | None], counts: Sequence[int]) -> Budgets | None:
    if all(budget is None for budget in each):
        return None
    return Budgets(list(zip(each, counts, strict=True)))


class _TorchSlots:
    def __init__(self, runner: TorchRunner, cache: SlotCache) -> None:
        self._runner, self._cache = runner, cache
        self._adapters: list[int] = []  # of the running sequences
        self._budgets: list[ExpertBudget | None] = []

    def enter(
        self,
        prompts: Sequence[Sequence[int]],
        adapters: Sequence[int],
        shares: Sequence[float | None],
    ) -> Tensor:
        counts = [len(ids) for ids in prompts]
        self._cache.enter(counts)
        self._adapters += adapters
        has_beginning = bool(self._runner.tokens)
        fresh = [self._runner.budget_of(share, fork=has_beginning) for share in shares]
        self._budgets += fresh
        row = [t for ids in prompts for t in ids]
        hidden = self._runner.run_row(row, self._cache, adapters, counts, fresh)
        return hidden[places_of_ends(prompts)]

    def step(self, token_ids: Sequence[int]) -> Tensor:
        counts = [1] * len(token_ids)
        return self._runner.run_row(token_ids, self._cache, self._adapters, counts, self._budgets)

    def experts_used(self, slot: int) -> ExpertsUsed | None:
        budget = self._budgets[slot]
        return None if budget is None else budget.used()

    def remove(self, slot: int) -> None:
        self._cache.remove(slot)
        self._adapters[slot] = self._adapters[-1]
        self._budgets[slot] = self._budgets[-1]
        self._adapters.pop()
        self._budgets.pop()

    def close(self) -> None:
        pass
