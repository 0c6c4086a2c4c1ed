"""Grouped-query self-attention: dense, as a cache decides, or with a learned memory."""

from jaxtyping import Float
from torch import Tensor, nn

from deepseek.model.adapter import Additions
from deepseek.model.cache import KVCache
from deepseek.model.config import ModelConfig
from deepseek.model.linear import Linear
from deepseek.model.memory import Memory, MemoryCache
from deepseek.ops.attention import attention
from deepseek.ops.native_model import Matrix
from deepseek.ops.rope import apply_rope


class Attention(nn.Module):
    """Queries, keys and values in one product; rotary positions; causal softmax."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_heads, self.n_kv_heads, self.d_head = (
            config.n_heads,
            config.n_kv_heads,
            config.d_head,
        )
        width = (config.n_heads + 2 * config.n_kv_heads) * config.d_head
        self.qkv = Linear(config.d_model, width, bias=config.attention_bias)
        self.output = Linear(config.n_heads * config.d_head, config.d_model)
        self.memory = Memory(config, layer) if config.attention == "hierarchical" else None

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rope: tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]],
        cache: KVCache | None,
        additions: Additions | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Attend from T new positions to all so far.

        Args:
            x: Normalised hidden states.
            rope: `rope_table` of the T positions.
            cache: Where earlier keys and values are and new ones go; it says what is seen.
            additions: What adapters add to the products.
        """
        batch, n_tokens, _ = x.shape
        qkv = self.qkv(x)
        if additions is not None:
            qkv = additions.add(x, qkv, Matrix.Q, Matrix.K, Matrix.V)
        heads = qkv.view(batch, n_tokens, -1, self.d_head).transpose(1, 2)
        rotated = apply_rope(heads[:, : self.n_heads + self.n_kv_heads], *rope)
        q, k = rotated[:, : self.n_heads], rotated[:, self.n_heads :]
        v = heads[:, self.n_heads + self.n_kv_heads :]
        if self.memory is not None:
            assert isinstance(cache, MemoryCache), "a model with a memory has a cache for it"
            still_q, still_k = heads[:, : self.n_heads], heads[:, self.n_heads : -self.n_kv_heads]
            mixed = self.memory(x, (q, still_q), (k, still_k), v, cache)
        else:
            mixed = attention(q, k, v) if cache is None else cache.attend(self.layer, q, k, v)
        mixed = mixed.transpose(1, 2).reshape(batch, n_tokens, -1)
        output: Tensor = self.output(mixed)
        return output if additions is None else additions.add(mixed, output, Matrix.O)
