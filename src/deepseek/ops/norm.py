"""Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4)."""

import torch
from jaxtyping import Float
from torch import Tensor


def rms_norm_reference(
    x: Float[Tensor, "*rows D"], weight: Float[Tensor, " D"], eps: float
) -> Float[Tensor, "*rows D"]:
    """The definition, in float64."""
    wide = x.double()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * scale * weight.double()).to(x.dtype)


def rms_norm(
    x: Float[Tensor, "*rows D"], weight: Float[Tensor, " D"], eps: float
) -> Float[Tensor, "*rows D"]:
    """Normalise the last axis in float32 and scale by `weight`.

    `vector_norm` runs vectorised where torch's own `rms_norm` and `mean` do not on CPUs.
    """
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = torch.rsqrt(scale.square() / x.shape[-1] + eps)
    return (wide * scale * weight).to(x.dtype)
