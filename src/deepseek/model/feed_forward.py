"""The dense feed-forward layer."""

from jaxtyping import Float
from torch import Tensor, nn

from deepseek.model.config import ModelConfig
from deepseek.model.linear import Linear
from deepseek.ops.activation import swiglu


class FeedForward(nn.Module):
    """SwiGLU: gate and up projections in one product, then down."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.d_model, 2 * config.d_ff)
        self.down = Linear(config.d_ff, config.d_model)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Transform each position by itself."""
        return self.down(swiglu(self.gate_up(x)))  # type: ignore[no-any-return]
