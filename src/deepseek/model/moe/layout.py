"""Which rows of which tensor belong to which expert: for isolation, files and surgery."""

from collections.abc import Iterable
from itertools import accumulate, pairwise

from torch import nn

from deepseek.model.moe.config import MoEConfig
from deepseek.model.moe.experts import LowRankExperts, NeuronExperts

ROWS = {
    **{f"experts.{name}": n for name, n in LowRankExperts.rows.items()},
    **{f"experts.{name}": n for name, n in NeuronExperts.rows.items()},
}
"""Rows of a stacked tensor by rank or neuron of an expert."""
SINGLE = ("gate.weight", "gate.bias", "scale")
"""Tensors with one row for each expert."""


def is_stacked(name: str) -> bool:
    """Whether a tensor of a mixture, such as `experts.up_a`, has rows of experts."""
    return name in ROWS or name in SINGLE


def expert_rows(moe: MoEConfig, name: str) -> list[slice]:
    """The rows of each expert in a stacked tensor."""
    sizes = [1] * moe.n_experts
    if name not in SINGLE:
        sizes = [ROWS[name] * size for size in moe.sizes]
    return [slice(a, b) for a, b in pairwise(accumulate(sizes, initial=0))]


def group_rows(moe: MoEConfig, name: str, groups: Iterable[str]) -> list[slice]:
    """The rows of some groups' experts in a stacked tensor.

    Raises:
        ConfigError: There is no such group.
    """
    rows = expert_rows(moe, name)
    found = []
    for group in groups:
        first, end = moe.bounds[moe.group(group)]
        found.append(slice(rows[first].start, rows[end - 1].stop))
    return found


def stacked_matrices(model: nn.Module) -> dict[str, list[int]]:
    """Rows of each matrix in the stacked tensors of a model's experts, by parameter.

    An expert's matrix is what an optimiser for matrices must see. Of experts that are shared out,
    those that are here count.
    """
    found = {}
    for prefix, module in model.named_modules():
        if isinstance(module, LowRankExperts | NeuronExperts):
            sizes = module.sizes
            if isinstance(module, NeuronExperts) and module.exchange is not None:
                sizes = sizes[module.exchange.own]
            for name, n_rows in module.rows.items():
                found[f"{prefix}.{name}".removeprefix(".")] = [n_rows * size for size in sizes]
    return found
