"""Experts that are SwiGLU layers of any width: all of a mixture's neurons in two tensors.

`gate_up` has each expert's gate rows and, below them, its up rows, expert after expert; `down` is
transposed, so that an expert is a run of rows there, too. Three ways to compute the same: all
neurons with masked weights, tokens sorted by expert, and single products for few tokens.

Axes: T tokens, D width, E experts, K slots, W neurons of all experts together.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from deepseek.ops.activation import swiglu
from deepseek.ops.moe.gate import Choice, dense_gates
from deepseek.ops.moe.low_rank import FEW, starts_of

Matrices = tuple[Float[Tensor, "W2 D"], Float[Tensor, "W D"]]
"""`gate_up` and `down`."""
Product = Callable[..., Tensor]
"""Multiplies as `F.linear` does, in a number format of its own."""


def neurons_reference(
    x: Float[Tensor, "T D"], choice: Choice, widths: Sequence[int], matrices: Matrices
) -> Float[Tensor, "T D"]:
    """The definition: token by token, expert by expert."""
    starts, rows = starts_of(widths), []
    for token, row in enumerate(x):
        out = torch.zeros_like(row)
        for slot, expert in enumerate(choice.experts[token].tolist()):
            if expert < len(widths):
                gate_up, down = _of_expert(matrices, starts[expert], widths[expert])
                gate, up = (gate_up @ row).chunk(2)
                weight = choice.weights[token, slot].to(x.dtype)
                out = out + weight * ((F.silu(gate) * up) @ down)
        rows.append(out)
    return torch.stack(rows) if rows else x


def neurons_masked(
    x: Float[Tensor, "T D"],
    choice: Choice,
    widths: Sequence[int],
    matrices: Matrices,
    product: Product = F.linear,
) -> Float[Tensor, "T D"]:
    """All neurons of all experts, those of other experts times 0: for when most are chosen."""
    gate_up, down = matrices
    gates = dense_gates(choice, len(widths)).to(x.dtype)
    parts = torch.split(product(x, gate_up), [2 * width for width in widths], -1)
    inner = torch.cat([swiglu(part) * gates[:, e, None] for e, part in enumerate(parts)], -1)
    return product(inner, down.T)


def neurons_sorted(
    x: Float[Tensor, "T D"],
    choice: Choice,
    widths: Sequence[int],
    matrices: Matrices,
    product: Product = F.linear,
) -> Float[Tensor, "T D"]:
    """Tokens in the order of their experts, so that each expert computes all of its own at once.

    The sort is stable and each token sums its slots in their order: the same every time.
    """
    n_tokens, n_slots = choice.experts.shape
    experts = choice.experts.flatten()
    order = experts.argsort(stable=True)
    counts = experts.bincount(minlength=len(widths) + 1)[:-1].tolist()
    order = order[: sum(counts)]
    ends = torch.tensor([0, *counts]).cumsum(0).tolist()
    rows = x.index_select(0, order // max(1, n_slots))
    pieces = [rows[:0]]
    for start, width, (first, end) in zip(starts_of(widths), widths, pairwise(ends), strict=True):
        if first < end:
            gate_up, down = _of_expert(matrices, start, width)
            inner = swiglu(product(rows[first:end], gate_up))
            pieces.append(product(inner, down.T))
    slots = x.new_zeros(n_tokens * n_slots, x.shape[1]).index_copy(0, order, torch.cat(pieces))
    weights = choice.weights.to(x.dtype)[:, None]
    return torch.bmm(weights, slots.view(n_tokens, n_slots, x.shape[1]))[:, 0]


def neurons_few(
    x: Float[Tensor, "T D"], choice: Choice, widths: Sequence[int], matrices: Matrices
) -> Float[Tensor, "T D"]:
    """Single products: for few tokens, where sorting costs more than it saves. No gradients."""
    out, starts = torch.zeros_like(x), starts_of(widths)
    for token, experts in enumerate(choice.experts.tolist()):
        row = x[token : token + 1]
        for slot, expert in enumerate(experts):
            if expert < len(widths):
                gate_up, down = _of_expert(matrices, starts[expert], widths[expert])
                inner = swiglu(F.linear(row, gate_up))
                inner *= choice.weights[token, slot].to(x.dtype)
                out[token : token + 1].addmm_(inner, down)
    return out


def neurons(
    x: Float[Tensor, "T D"],
    choice: Choice,
    widths: Sequence[int],
    matrices: Matrices,
    product: Product = F.linear,
) -> Float[Tensor, "T D"]:
    """What the chosen experts say, times their weights, in the way that is fastest."""
    n_tokens, n_slots = choice.experts.shape
    if n_tokens * n_slots <= FEW and not torch.is_grad_enabled():
        return neurons_few(x, choice, widths, matrices)
    way = neurons_masked if 2 * n_slots > len(widths) else neurons_sorted
    return way(x, choice, widths, matrices, product)


def _of_expert(
    matrices: Matrices, start: int, width: int
) -> tuple[Float[Tensor, "F2 D"], Float[Tensor, "F D"]]:
    gate_up, down = matrices
    return gate_up.narrow(0, 2 * start, 2 * width), down.narrow(0, start, width)
