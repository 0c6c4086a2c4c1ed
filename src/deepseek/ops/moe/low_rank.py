"""Experts of low rank that add to a product: `y += scale * sum of weight_e * up_e (down_e x)`.

Experts may have any rank. Their matrices lie one below the other, `down` as rows and `up`
transposed, so that an expert is a run of rows in both. Where `up` is 0, exactly 0 is added.

Axes: T tokens, I and O widths in and out, E experts, K slots, R ranks of all experts together.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from deepseek.ops.moe.gate import Choice

FEW = 8
"""Tokens times slots up to which single experts are computed: below that, calls cost most."""


def starts_of(sizes: Sequence[int]) -> list[int]:
    """Where each expert's rows begin."""
    return [0, *accumulate(sizes)][:-1]


def low_rank_reference(
    x: Float[Tensor, "T I"],
    y: Float[Tensor, "T O"],
    choice: Choice,
    sizes: Sequence[int],
    matrices: tuple[Float[Tensor, "R I"], Float[Tensor, "R O"]],
    scale: float,
) -> Float[Tensor, "T O"]:
    """The definition: token by token, expert by expert."""
    down, up = matrices
    starts, rows = starts_of(sizes), []
    for token, row in enumerate(y):
        for slot, expert in enumerate(choice.experts[token].tolist()):
            if expert < len(sizes):
                own = slice(starts[expert], starts[expert] + sizes[expert])
                weight = choice.weights[token, slot].to(x.dtype)
                row = row + scale * weight * (down[own] @ x[token]) @ up[own]
        rows.append(row)
    return torch.stack(rows) if rows else y


def spread(
    gates: Float[Tensor, "T E"], sizes: Sequence[int], scale: float, dtype: torch.dtype
) -> Float[Tensor, "T R"]:
    """Each expert's weight, times the scale, for each of its ranks."""
    counts = torch.tensor(list(sizes), device=gates.device)
    return (gates * scale).repeat_interleave(counts, 1, output_size=sum(sizes)).to(dtype)


def low_rank_masked(
    x: Float[Tensor, "T I"],
    y: Float[Tensor, "T O"],
    weights: Float[Tensor, "T R"],
    matrices: tuple[Float[Tensor, "R I"], Float[Tensor, "R O"]],
) -> Float[Tensor, "T O"]:
    """Add what all experts say, times their weights: two products, nothing sorted or gathered.

    Args:
        x: Inputs.
        y: Changed in place.
        weights: From `spread`.
        matrices: `down` and `up`.
    """
    down, up = matrices
    # Under autocast products have another format than what they are made of.
    return y.addmm_(((x @ down.T) * weights).to(y.dtype), up.to(y.dtype))


def low_rank_few(
    x: Float[Tensor, "T I"],
    y: Float[Tensor, "T O"],
    choice: Choice,
    sizes: Sequence[int],
    matrices: tuple[Float[Tensor, "R I"], Float[Tensor, "R O"]],
    scale: float,
) -> Float[Tensor, "T O"]:
    """The same for few tokens: only the rows of the chosen experts are read. Changes `y`."""
    return low_rank_runs(x, y, runs_of(choice, sizes, scale, x.dtype), matrices)


Runs = list[tuple[list[tuple[int, int]], Tensor]]
"""For each token: first row and number of rows of each chosen expert, and its scaled weight for
each of these rows."""


def runs_of(choice: Choice, sizes: Sequence[int], scale: float, dtype: torch.dtype) -> Runs:
    """What `low_rank_runs` needs of a choice, for all products of a layer."""
    starts, n_experts, runs = starts_of(sizes), len(sizes), []
    for experts, weights in zip(choice.experts.tolist(), choice.weights.tolist(), strict=True):
        rows, wide = [], []
        for expert, weight in zip(experts, weights, strict=True):
            if expert < n_experts:
                rows.append((starts[expert], sizes[expert]))
                wide += [scale * weight] * sizes[expert]
        runs.append((rows, torch.tensor(wide, dtype=dtype, device=choice.experts.device)))
    return runs


def low_rank_runs(
    x: Float[Tensor, "T I"],
    y: Float[Tensor, "T O"],
    runs: Runs,
    matrices: tuple[Float[Tensor, "R I"], Float[Tensor, "R O"]],
) -> Float[Tensor, "T O"]:
    """Add for each token what its runs of rows say. Changes `y`.

    A token's runs are copied behind each other: calls cost more than copies of a few rows.
    """
    down, up = matrices
    for token, (rows, weights) in enumerate(runs):
        if rows:
            first, second = (
                torch.cat([matrix.narrow(0, start, size) for start, size in rows])
                for matrix in (down, up)
            )
            inner = F.linear(x.narrow(0, token, 1), first) * weights
            y.narrow(0, token, 1).addmm_(inner, second)
    return y
