"""RMS normalisation as a layer."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deepseek.ops.norm import rms_norm


class RMSNorm(nn.Module):
    """Scale to unit root mean square, then by a learned weight kept in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """Normalise the last axis."""
        return rms_norm(x, self.weight, self.eps)
