"""One transformer block: attention, then feed-forward, each with a residual."""

from jaxtyping import Float
from torch import Tensor, nn

from deepseek.model.adapter import Additions
from deepseek.model.attention import Attention
from deepseek.model.cache import KVCache
from deepseek.model.config import ModelConfig
from deepseek.model.feed_forward import FeedForward
from deepseek.model.norm import RMSNorm


class Block(nn.Module):
    """Pre-norm block. The config decides which attention and which feed-forward layer it has."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rope: tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]],
        cache: KVCache | None,
        additions: Additions | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Hidden states in, hidden states out; adapters may add to the products."""
        x = x + self.attention(self.attention_norm(x), rope, cache, additions)
        return x + self.feed_forward(self.feed_forward_norm(x), additions)  # type: ignore[no-any-return]
