"""The decoder: embedding, blocks, norm, head. Llama and Qwen2 families share it, and mixtures."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deepseek.model.adapter import Additions
from deepseek.model.block import Block
from deepseek.model.cache import KVCache
from deepseek.model.config import ModelConfig
from deepseek.model.linear import Embedding, Linear
from deepseek.model.memory import MemoryCache
from deepseek.model.moe.budget import Budgets
from deepseek.model.moe.gate import Routing
from deepseek.model.norm import RMSNorm
from deepseek.ops.rope import rope_table


class Transformer(nn.Module):
    """A decoder-only language model. Build it, then load or initialise its weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = Linear(config.d_model, config.vocab_size)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight
        self.recompute = False
        """Whether training computes a block's activations again instead of keeping them."""

    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        cache: KVCache | None = None,
        last: int | None = None,
        additions: Additions | None = None,
        domains: Int[Tensor, "B T"] | None = None,
        budgets: Budgets | None = None,
    ) -> Float[Tensor, "B N V"]:
        """Logits for the next token after each position.

        Args:
            token_ids: T new tokens.
            cache: Earlier tokens' keys and values; grows by T. None reads the tokens alone.
            last: Compute logits for this many last positions only (0: none, just fill the
                cache); None for all. The head is a fifth of a small model's work.
            additions: What adapters add to the products.
            domains: For a mixture of experts: the group of each token (`MoEConfig.group`), -1
                without a label. None: none has one.
            budgets: For a mixture: what each sequence may use, the rows of a batch of one.

        Returns:
            Logits in the model's dtype; N is `last`, or T.
        """
        x = self.hidden_states(token_ids, cache, additions, domains, budgets)
        if last is not None:
            x = x[:, x.shape[1] - last :]
        return self.head(self.norm(x))  # type: ignore[no-any-return]

    def hidden_states(
        self,
        token_ids: Int[Tensor, "B T"],
        cache: KVCache | None = None,
        additions: Additions | None = None,
        domains: Int[Tensor, "B T"] | None = None,
        budgets: Budgets | None = None,
    ) -> Float[Tensor, "B T D"]:
        """What the last block returns, before the final norm."""
        n_tokens = token_ids.shape[1]
        x = self.embedding(token_ids)
        if self.config.attention == "hierarchical" and cache is None:
            cache = MemoryCache(self.config, x.device)
        if cache is None:
            positions = torch.arange(n_tokens, device=x.device)
        else:
            positions = cache.positions(n_tokens)
        rope = rope_table(positions, self.config.d_head, self.config.rope_theta, x.dtype)
        routing = None
        if self.config.moe is not None:
            routing = Routing(token_ids.flatten(), None if domains is None else domains.flatten())
        for layer, block in enumerate(self.blocks):
            own = None if additions is None else additions.of(layer)
            if routing is not None and budgets is not None:
                routing = replace(routing, budgets=budgets.of(layer))
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, rope, cache, own, routing, use_reentrant=False)
            else:
                x = block(x, rope, cache, own, routing)
        if cache is not None:
            cache.advance(n_tokens)
        return x  # type: ignore[no-any-return]

    @torch.no_grad()
    def initialise(self, seed: int = 0) -> None:
        """Random weights: normal with deviation 0.02, residual outputs scaled by depth.

        The scaling keeps the residual stream's variance independent of the number of layers
        (GPT-2, Radford et al. 2019, section 2.3).
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            self.draw(name, parameter, generator)

    @torch.no_grad()
    def draw(self, name: str, values: Tensor, generator: torch.Generator) -> None:
        """Put the first values of a whole parameter into a tensor."""
        if name.endswith("bias"):
            values.zero_()
        elif "norm" in name:
            values.fill_(1.0)
        elif ".memory." in name or name.endswith(("_b", ".scale")):
            values.zero_()  # what is added at first is nothing
        else:
            is_residual = name.endswith(("output.weight", "down.weight", "experts.down"))
            depth = (2 * self.config.n_layers) ** 0.5 if is_residual else 1.0
            values.normal_(0.0, 0.02 / depth, generator=generator)
