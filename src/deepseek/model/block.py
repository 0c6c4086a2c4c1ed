"""One transformer block: attention, then feed-forward, each with a residual."""

from jaxtyping import Float
from torch import Tensor, nn

from deepseek.model.adapter import Additions
from deepseek.model.attention import Attention
from deepseek.model.cache import KVCache
from deepseek.model.config import ModelConfig
from deepseek.model.feed_forward import FeedForward
from deepseek.model.moe.gate import Routing
from deepseek.model.moe.layer import MoELayer, mixture_of
from deepseek.model.norm import RMSNorm


class Block(nn.Module):
    """Pre-norm block. The config decides which attention and which feed-forward layer it has."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward: FeedForward | MoELayer
        if config.moe is None:
            self.feed_forward = FeedForward(config.d_model, config.d_ff)
        else:
            self.feed_forward = mixture_of(config.moe, config.d_model, config.d_ff)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rope: tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]],
        cache: KVCache | None,
        additions: Additions | None = None,
        routing: Routing | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Hidden states in, hidden states out; adapters may add to the products.

        A mixture of experts needs to know what it routes.
        """
        x = x + self.attention(self.attention_norm(x), rope, cache, additions)
        normed = self.feed_forward_norm(x)
        if isinstance(self.feed_forward, FeedForward):
            return x + self.feed_forward(normed, additions)  # type: ignore[no-any-return]
        return x + self.feed_forward(normed, routing, additions)  # type: ignore[no-any-return]
