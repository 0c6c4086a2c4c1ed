"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), the half-rotation form."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rope_table(
    positions: Int[Tensor, " T"], d_head: int, theta: float, dtype: torch.dtype
) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]]:
    """Cosines and sines for each position. Angles are computed in float64: those of a million
    positions have no digits left for the rest of a turn in float32.

    The sine carries the sign of the rotation in its first half, so that applying the table is
    two products and one sum.
    """
    exponents = torch.arange(0, d_head, 2, device=positions.device, dtype=torch.float64) / d_head
    angles = positions.double()[:, None] / theta ** exponents[None, :]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def apply_rope(
    x: Float[Tensor, "B H T K"], cos: Float[Tensor, "T K"], sin: Float[Tensor, "T K"]
) -> Float[Tensor, "B H T K"]:
    """Rotate each pair (i, i + K/2) of the last axis by its position's angle."""
    return x * cos + torch.roll(x, x.shape[-1] // 2, -1) * sin
