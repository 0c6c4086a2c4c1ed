"""The dense feed-forward layer."""

from jaxtyping import Float
from torch import Tensor, nn

from deepseek.model.adapter import Additions
from deepseek.model.linear import Linear
from deepseek.ops.activation import swiglu
from deepseek.ops.native_model import Matrix


class FeedForward(nn.Module):
    """SwiGLU: gate and up projections in one product, then down."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = Linear(d_model, 2 * d_ff)
        self.down = Linear(d_ff, d_model)

    def forward(
        self, x: Float[Tensor, "B T D"], additions: Additions | None = None
    ) -> Float[Tensor, "B T D"]:
        """Transform each position by itself; adapters may add to the products."""
        gate_up = self.gate_up(x)
        if additions is not None:
            gate_up = additions.add(x, gate_up, Matrix.GATE, Matrix.UP)
        inner = swiglu(gate_up)
        down: Tensor = self.down(inner)
        return down if additions is None else additions.add(inner, down, Matrix.DOWN)
