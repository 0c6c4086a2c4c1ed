"""Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4)."""

from typing import Any

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
    if torch.is_grad_enabled() and x.requires_grad and not weight.requires_grad:
        return _FrozenNorm.apply(x, weight, eps)  # type: ignore[no-any-return,no-untyped-call]
    return _normed(x, weight, eps)[0]


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """What comes out, and by what each row was multiplied."""
    wide = _wide(x)
    scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = torch.rsqrt(scale.square() / x.shape[-1] + eps)
    return (wide * scale * weight).to(x.dtype), scale


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class _FrozenNorm(torch.autograd.Function):
    """With a weight that does not learn: keeps x and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, scale = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        wide, own = _wide(x), _wide(gradients[0]) * weight
        along = torch.linalg.vecdot(own, wide).unsqueeze(-1)
        own.addcmul_(wide, scale.square() * along / x.shape[-1], value=-1).mul_(scale)
        return own.to(x.dtype), None, None
