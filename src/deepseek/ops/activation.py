"""Gated activations of feed-forward layers."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def swiglu(gate_up: Float[Tensor, "*rows two_F"]) -> Float[Tensor, "*rows F"]:
    """`silu(gate) * up` (Shazeer 2020, arXiv:2002.05202) of the two halves of the last axis."""
    gate, up = gate_up.chunk(2, -1)
    activated = F.silu(gate)
    return activated * up if activated.requires_grad else activated.mul_(up)
