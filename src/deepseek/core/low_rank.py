"""A matrix of low rank as two thin ones: how adapters are stored, and how they are applied."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What an adapter adds to the products with a matrix: `y += scale * up (down x)`."""

    down: Float[Tensor, "R I"]
    up: Float[Tensor, "O R"]
    scale: float

    @property
    def rank(self) -> int:
        """Rows of `down`."""
        return self.down.shape[0]
