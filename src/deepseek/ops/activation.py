"""Gated activations of feed-forward layers."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def swiglu(gate_up: Float[Tensor, "*rows two_F"]) -> Float[Tensor, "*rows F"]:
    """`silu(gate) * up` (Shazeer 2020, arXiv:2002.05202) of the two halves of the last axis."""
    if torch.is_grad_enabled() and gate_up.requires_grad:
        product: Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
        return product
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate).mul_(up)


class _SwiGLU(torch.autograd.Function):
    """Keeps its input only, where autograd would keep the activated half as well."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        d_gate = torch.ops.aten.silu_backward(gradients[0] * up, gate)
        return torch.cat([d_gate, F.silu(gate).mul_(gradients[0])], -1)
