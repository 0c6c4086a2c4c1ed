"""Muon (Jordan et al. 2024): momentum made orthogonal, for matrices and stacks of them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5
RMS = 0.2
"""Root mean square of an update by AdamW, which rate and decay are tuned for (Liu et al. 2025,
arXiv:2502.16982, section 2.2)."""


class Muon:
    """Keeps a momentum for each matrix."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], *, momentum: float, decay: float
    ) -> None:
        self._parameters = list(parameters)
        self._momentum, self._decay = momentum, decay
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Decay, then move by the orthogonal part of the momentum, looked ahead (Nesterov)."""
        for parameter in self._parameters:
            if parameter.grad is None:
                continue
            state = self.state.setdefault(parameter, {"momentum": torch.zeros_like(parameter)})
            momentum = state["momentum"]
            momentum.lerp_(parameter.grad, 1 - self._momentum)
            update = orthogonal(torch.lerp(parameter.grad, momentum, self._momentum))
            size = RMS * max(parameter.shape[-2:]) ** 0.5
            parameter.mul_(1 - rate * self._decay)
            parameter.sub_(update.to(parameter.dtype), alpha=rate * size)


def orthogonal(
    matrix: Float[Tensor, "*stack rows columns"],
) -> Float[Tensor, "*stack rows columns"]:
    """About the nearest matrix with orthonormal rows or columns, by Newton-Schulz iteration.

    Singular values come to lie between about 0.7 and 1.2, which serves an update as well as 1.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    x = (matrix.mT if is_tall else matrix).float()
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(N_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = x.mT if is_tall else x
    return result
