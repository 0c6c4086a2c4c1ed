"""What training keeps of a pass until its gradients are computed: numbers a token, by formula.

Axes: D width, Q width of all queries, V width of keys and of values, F neurons.
"""

from deepseek.model.config import ModelConfig

CHUNK = 1_024
"""Positions whose logits training has at a time."""


def active_neurons(config: ModelConfig) -> int:
    """Neurons of the feed-forward layer that compute for a token, experts taken to be of mean
    size."""
    moe = config.moe
    if moe is None or moe.form == "low_rank":
        return config.d_ff
    mean = sum(moe.sizes) / moe.n_experts
    return round(moe.shared + moe.n_active_experts * mean)


def kept_numbers(config: ModelConfig) -> int:
    """Numbers a token that one block keeps for its gradients.

    Twice: a norm's input, what it is after scaling, and the product's input. Queries, keys and
    values before and after they are put in order for attention, what attention gives, and the
    input of its last product. Gate and up, and the input of `down`.
    """
    d_q, d_kv = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    return 6 * config.d_model + 4 * d_q + 2 * d_kv + 3 * active_neurons(config) + _routed(config)


def activation_bytes(
    config: ModelConfig, n_tokens: int, *, width: int, recompute: bool = False
) -> int:
    """What all blocks keep of a pass; with `recompute`, their inputs and one block's.

    Args:
        config: Of the model.
        n_tokens: Of the pass.
        width: Bytes of a number.
        recompute: Whether activations are computed again for the gradients.
    """
    own = kept_numbers(config) * width
    if not recompute:
        return n_tokens * config.n_layers * own
    return n_tokens * (own + config.n_layers * config.d_model * 4)


def _routed(config: ModelConfig) -> int:
    """What a mixture keeps beside products: scores, and rows in the order of their experts."""
    moe = config.moe
    if moe is None:
        return 0
    scores = 4 * moe.n_experts
    if moe.form == "low_rank":
        return scores + 7 * sum(moe.sizes)
    return scores + 3 * moe.n_active_experts * config.d_model
