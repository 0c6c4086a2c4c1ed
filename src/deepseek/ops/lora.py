"""A frozen product with matrices of low rank added, with a backward pass of its own.

`y = x W^T + bias`, and to some blocks of its columns `scale * (x down^T) up^T`. A layer may be
several matrices one below the other (queries, keys, values): each block has a `down` and an `up`
of its own, all of them stacked, so that x is read once. Nothing is computed for the gradient of W,
and of the activations only x and the thin products are kept.

Axes: N tokens, I and O widths in and out, A rows of all adapted blocks, R rank, P blocks.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from deepseek.ops.linear import QuantisedWeight

Blocks = Sequence[slice]
"""Columns of the product that are added to, in order."""


def lora_reference(
    x: Float[Tensor, "N I"],
    weight: Float[Tensor, "O I"],
    bias: Float[Tensor, " O"] | None,
    pair: tuple[Float[Tensor, "PR I"], Float[Tensor, "A R"]],
    blocks: Blocks,
    scale: float,
) -> Float[Tensor, "N O"]:
    """The definition: the product with a sum of matrices, by autograd."""
    down, up = pair
    rank, start = up.shape[1], 0
    change = torch.zeros_like(weight)
    for number, block in enumerate(blocks):
        end = start + block.stop - block.start
        own = down[number * rank : (number + 1) * rank]
        rows = scale * up[start:end] @ own
        change = torch.cat([change[: block.start], rows, change[block.stop :]])
        start = end
    return F.linear(x, weight + change, bias)


def lora_linear(
    x: Float[Tensor, "*rows I"],
    weight: Tensor | QuantisedWeight,
    bias: Float[Tensor, " O"] | None,
    pair: tuple[Float[Tensor, "PR I"], Float[Tensor, "A R"]] | None,
    blocks: Blocks,
    scale: float,
    dtype: torch.dtype,
) -> Float[Tensor, "*rows O"]:
    """Multiply by a frozen weight and add the low-rank products.

    Args:
        x: Inputs; computed in `dtype`.
        weight: Frozen. Quantised ones are unpacked for each pass: their values are used, and the
            memory of one matrix.
        bias: Frozen.
        pair: `down` and `up`, which have gradients; None: nothing is added.
        blocks: Where to.
        scale: Of what is added.
        dtype: Of products.
    """
    rows = x.reshape(-1, x.shape[-1]).to(dtype)
    down, up = pair if pair is not None else (None, None)
    with torch.autocast(x.device.type, enabled=False):
        y = _Product.apply(rows, weight, bias, down, up, blocks, scale)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], y.shape[-1])  # type: ignore[no-any-return]


def plain(weight: Tensor | QuantisedWeight, dtype: torch.dtype) -> Float[Tensor, "O I"]:
    """A frozen weight as a matrix of numbers."""
    dense = weight.unpack() if isinstance(weight, QuantisedWeight) else weight
    return dense.to(dtype)


class _Product(torch.autograd.Function):
    """Both passes, written out."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | QuantisedWeight,
        bias: Tensor | None,
        down: Tensor | None,
        up: Tensor | None,
        blocks: Blocks,
        scale: float,
    ) -> Tensor:
        y = F.linear(x, plain(weight, x.dtype), None if bias is None else bias.to(x.dtype))
        ctx.weight, ctx.blocks, ctx.scale = weight, blocks, scale
        if down is None or up is None:
            ctx.save_for_backward()
            return y
        down, up = down.to(x.dtype), up.to(x.dtype)
        thin = x @ down.T
        for block, rows, columns in _places(blocks, up.shape[1]):
            y[:, block].addmm_(thin[:, columns], up[rows].T, alpha=scale)
        ctx.save_for_backward(x, thin, down, up)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dy, dx = gradients[0].contiguous(), None
        if ctx.needs_input_grad[0]:
            dx = dy @ plain(ctx.weight, dy.dtype)
        if not ctx.saved_tensors:
            return dx, None, None, None, None, None, None
        x, thin, down, up = ctx.saved_tensors
        d_thin, d_up = torch.empty_like(thin), torch.empty_like(up)
        for block, rows, columns in _places(ctx.blocks, up.shape[1]):
            own = dy[:, block]
            torch.mm(own, up[rows], out=d_thin[:, columns])
            torch.mm(own.T, thin[:, columns], out=d_up[rows])
        d_thin *= ctx.scale
        if dx is not None:
            dx.addmm_(d_thin, down)
        # Sums over tokens in float32, as the parameters are.
        return dx, None, None, (d_thin.T @ x).float(), d_up.float().mul_(ctx.scale), None, None


def _places(blocks: Blocks, rank: int) -> list[tuple[slice, slice, slice]]:
    """Of each block: its columns in y, its rows of `up`, its columns of the thin product."""
    found, start = [], 0
    for number, block in enumerate(blocks):
        end = start + block.stop - block.start
        found.append((block, slice(start, end), slice(number * rank, (number + 1) * rank)))
        start = end
    return found
