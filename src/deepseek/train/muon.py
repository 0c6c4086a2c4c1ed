"""Muon (Jordan et al. 2024): momentum made orthogonal, for matrices and stacks of them.

Orthogonality is a matter of whole matrices. Of those that ranks share, each rank puts some
together, computes, and gives the result to the others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5
RMS = 0.2
"""Root mean square of an update by AdamW, which rate and decay are tuned for (Liu et al. 2025,
arXiv:2502.16982, section 2.2)."""


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A parameter that is a matrix, or several."""

    value: nn.Parameter
    """What is changed."""
    sizes: list[int] | None = None
    """Rows of each matrix, if several of any height lie one below the other."""
    shared: Any = None
    """The distributed tensor of which the value is the rows that are here."""

    def update(self, direction: Tensor) -> Tensor:
        """How far to move, for the whole."""
        parts = [direction] if self.sizes is None else torch.split(direction, self.sizes)
        found = [RMS * max(part.shape[-2:]) ** 0.5 * orthogonal(part) for part in parts]
        return found[0] if len(found) == 1 else torch.cat(found)

    def gathered(self, rows: Tensor) -> Tensor:
        """The whole of what each rank has the value's rows of."""
        from torch.distributed.tensor import DTensor

        own = self.shared
        spread = DTensor.from_local(
            rows,
            own.device_mesh,
            own.placements,
            run_check=False,
            shape=own.shape,
            stride=own.stride(),
        )
        return spread.full_tensor()


class Muon:
    """Keeps a momentum for each matrix."""

    def __init__(self, matrices: Sequence[Matrix], *, momentum: float, decay: float) -> None:
        self._matrices = list(matrices)
        self._momentum, self._decay = momentum, decay
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Decay, then move by the orthogonal part of the momentum, looked ahead (Nesterov)."""
        for matrix in self._matrices:
            if matrix.shared is None and matrix.value.grad is not None:
                self._move(matrix, matrix.update(self._direction(matrix.value)), rate)
        for wave in self._waves():
            self._step_together(wave, rate)

    def _direction(self, value: nn.Parameter) -> Tensor:
        assert value.grad is not None
        state = self.state.setdefault(value, {"momentum": torch.zeros_like(value)})
        state["momentum"].lerp_(value.grad, 1 - self._momentum)
        return torch.lerp(value.grad, state["momentum"], self._momentum)

    def _move(self, matrix: Matrix, update: Tensor, rate: float) -> None:
        matrix.value.mul_(1 - rate * self._decay)
        matrix.value.sub_(update.to(matrix.value.dtype), alpha=rate)

    def _waves(self) -> Iterator[list[Matrix]]:
        """Shared matrices, as many at a time as ranks have the rows of each."""
        meshes: dict[Any, list[Matrix]] = {}
        for matrix in self._matrices:
            if matrix.shared is not None and matrix.value.grad is not None:
                meshes.setdefault(matrix.shared.device_mesh, []).append(matrix)
        for own in meshes.values():
            size = own[0].shared.device_mesh.size()
            yield from (own[first : first + size] for first in range(0, len(own), size))

    def _step_together(self, wave: list[Matrix], rate: float) -> None:
        """One matrix a rank."""
        mesh = wave[0].shared.device_mesh
        group, own = mesh.get_group(), mesh.get_local_rank()
        updates = []
        for number, matrix in enumerate(wave):
            whole = matrix.gathered(self._direction(matrix.value))
            updates.append(whole if number == own else torch.empty_like(whole))
        if own < len(wave):
            updates[own] = wave[own].update(updates[own])
        for number, (matrix, update) in enumerate(zip(wave, updates, strict=True)):
            dist.broadcast(update, group=group, group_src=number)
            n_rows = matrix.value.shape[0]
            first = min(-(-update.shape[0] // mesh.size()) * own, update.shape[0])
            self._move(matrix, update.narrow(0, first, n_rows), rate)


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
