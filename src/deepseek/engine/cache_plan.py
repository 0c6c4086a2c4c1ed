"""How a model's keys and values are kept: what is asked for, or what memory allows."""

from dataclasses import dataclass, replace
from pathlib import Path

from deepseek.core.device import Compute
from deepseek.core.errors import ConfigError
from deepseek.core.log import LOGGER
from deepseek.core.memory import available_bytes, resident_bytes
from deepseek.model.budget import Budget, Needs, choose_format, plan
from deepseek.model.checkpoint import is_quantised, quantised_bytes
from deepseek.model.config import ModelConfig
from deepseek.model.decoder import takes_shape
from deepseek.model.hierarchical import AttentionMode, choose_hierarchy
from deepseek.model.memory_plan import Share
from deepseek.ops.cold import ColdTier, KVDtype, choose_tier
from deepseek.ops.hierarchical import Hierarchy
from deepseek.weights.source import WeightSource


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlan:
    """What is known of the cache before the weights are loaded."""

    context_window: int | None
    """Tokens to work with; None: what the weights were trained for."""
    hierarchy: Hierarchy | None
    keys_and_values: str
    """Their number format, for people; with the reason if memory decided."""
    tier: ColdTier | None = None
    budget: Budget | None = None


def plan_cache(
    source: WeightSource,
    compute: Compute,
    *,
    kv_dtype: KVDtype,
    kv_disk: str | Path | None,
    memory_budget: int | None,
    context_window: int | None,
    attention: AttentionMode,
    others: tuple[Share, ...] = (),
) -> CachePlan:
    """Decide what tokens see and how it is kept.

    Args:
        source: The weights, not loaded yet.
        compute: How they will be computed.
        kv_dtype: `auto`: bfloat16, or fewer bits if the context window does not fit the budget, or
            without one what memory is left; with `kv_disk` int8.
        kv_disk: Where they lie that are in fewer bits; None: in memory.
        memory_budget: In bytes; None: none was given.
        context_window: Tokens that are wanted; None: those of the trained window.
        attention: What tokens see of long texts.
        others: What else a memory budget counts.

    Raises:
        ConfigError: Settings do not go together, or the budget does not suffice.
    """
    config = ModelConfig.from_checkpoint(source.config())
    if kv_disk is not None and kv_dtype == "auto":
        kv_dtype = "int8"
    is_native = compute.quantised and is_quantised(source) and takes_shape(config)
    _require_native_for(kv_dtype, memory_budget, compute, is_native)
    wanted = context_window or config.context_window
    hierarchy = choose_hierarchy(config, wanted, attention)
    if not is_native:
        return CachePlan(
            context_window=context_window,
            hierarchy=hierarchy,
            keys_and_values=str(compute.dtype).removeprefix("torch."),
        )
    needs = _memory_needs(source, config, compute, hierarchy, memory_budget)
    needs = replace(needs, others=others, is_on_disk=kv_disk is not None)
    chosen, budget = str(kv_dtype), None
    if memory_budget is not None:
        budget = plan(needs, context_window, kv_dtype)
        chosen, context_window = budget.kv_format, budget.context_window
        _log(budget, needs)
    elif kv_dtype == "auto":
        chosen = choose_format(needs, wanted) if needs.n_bytes else "bfloat16"
    tier = choose_tier(chosen, kv_disk)
    kept = chosen if tier is None else tier.describe()
    if tier is not None and kv_dtype == "auto":
        kept += f" ({_why(needs, wanted, memory_budget)})"
    return CachePlan(
        context_window=context_window,
        hierarchy=hierarchy,
        tier=tier,
        budget=budget,
        keys_and_values=kept,
    )


def _memory_needs(
    source: WeightSource,
    config: ModelConfig,
    compute: Compute,
    hierarchy: Hierarchy | None,
    memory_budget: int | None,
) -> Needs:
    """What quantised weights and their cache will need.

    Without a budget, what the process holds and could still take is one; 0 bytes if the system
    does not say.
    """
    taken = resident_bytes()
    if memory_budget is None:
        left = available_bytes()
        memory_budget = 0 if left is None else taken + left
    return Needs(
        config=config,
        n_bytes=memory_budget,
        taken=taken,
        weights=quantised_bytes(source),
        has_nodes=hierarchy is not None,
        n_threads=compute.n_threads,
    )


def _require_native_for(
    kv_dtype: KVDtype, memory_budget: int | None, compute: Compute, is_native: bool
) -> None:
    if kv_dtype not in ("auto", "bfloat16") and not is_native:
        computed = str(compute.dtype).removeprefix("torch.")
        what = "they are not quantised" if compute.quantised else f"computed in {computed}"
        raise ConfigError(
            f"keys and values in {kv_dtype} work with the native library only, and the weights "
            f"are not in it: {what}",
            "use --dtype int8 on a CPU (plain weights are rounded then), or leave --kv-dtype and "
            "--kv-disk out",
        )
    if memory_budget is not None and not is_native:
        raise ConfigError(
            "a memory budget is kept with quantised weights in the native library only",
            "use dtype int8 on a CPU: plain weights are rounded to it then",
        )


def _why(needs: Needs, wanted: int, memory_budget: int | None) -> str:
    """Why not in bfloat16."""
    limit = "could be had" if memory_budget is None else "is the memory budget"
    return (
        f"in bfloat16 {wanted:,} tokens need {needs.peak(wanted, 'bfloat16') / 2**20:,.0f} MiB, "
        f"{needs.n_bytes / 2**20:,.0f} MiB {limit}"
    )


def _log(budget: Budget, needs: Needs) -> None:
    LOGGER.info(
        "memory budget: %d MiB, weights %d MiB, a context window of %d tokens in %s takes %d MiB",
        needs.n_bytes >> 20,
        needs.weights >> 20,
        budget.context_window,
        budget.kv_format,
        budget.peak_bytes >> 20,
    )
