"""Causal softmax attention with grouped key and value heads.

Axes: B batch, H query heads, G key/value heads, T query tokens, S key tokens, K head width.
Queries are the last T of the S positions.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def attention_reference(
    q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"], v: Float[Tensor, "B G S K"]
) -> Float[Tensor, "B H T K"]:
    """The definition, in float64, every score in memory."""
    n_groups = q.shape[1] // k.shape[1]
    wide_k = k.double().repeat_interleave(n_groups, 1)
    wide_v = v.double().repeat_interleave(n_groups, 1)
    scores = q.double() @ wide_k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~causal_mask(q.shape[2], k.shape[2], q.device), -math.inf)
    return (scores.softmax(-1) @ wide_v).to(q.dtype)


def causal_mask(n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """True where query t may see key s: the queries are the last of the keys."""
    mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return mask.tril(n_keys - n_queries)


def attention(
    q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"], v: Float[Tensor, "B G S K"]
) -> Float[Tensor, "B H T K"]:
    """Causal attention through torch's flash kernels.

    Args:
        q: Queries for the last T positions.
        k: Keys of all positions so far.
        v: Values of all positions so far.
    """
    n_queries, n_keys = q.shape[2], k.shape[2]
    if n_queries == 1:
        return _one_query(q, k, v)
    if n_queries == n_keys:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    if q.device.type == "cpu" and not q.requires_grad:
        return _past_and_present(q, k, v)
    mask = causal_mask(n_queries, n_keys, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def _past_and_present(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A chunk against what came before it, and against itself; then both merged.

    All queries see all of the past, so that part needs no mask, and the heads of a group become
    rows of one query block; the other part is causal, and half of it is never computed.
    """
    batch, n_heads, n_queries, width = q.shape
    n_groups, n_past = k.shape[1], k.shape[2] - n_queries
    group = n_heads // n_groups
    rows = q.reshape(batch, n_groups, group * n_queries, width)
    past, past_mass = _flash(rows, k[:, :, :n_past], v[:, :, :n_past], False)
    new_k, new_v = (x[:, :, n_past:].repeat_interleave(group, 1) for x in (k, v))
    present, present_mass = _flash(q, new_k, new_v, True)
    # The masses are logarithms of the softmax's denominators: their share weighs the two parts.
    share = torch.sigmoid(past_mass.reshape(present_mass.shape) - present_mass).unsqueeze(-1)
    wide = share.dtype
    return torch.lerp(present.to(wide), past.reshape(q.shape).to(wide), share).to(q.dtype)


def _flash(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """Attention and the logarithm of each query's softmax denominator."""
    output, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, is_causal
    )
    return output, mass


def _one_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query a head: the heads of a group become rows of one query block.

    Keys and values are then read once a group instead of once a head.
    """
    batch, n_heads, _, width = q.shape
    n_groups = k.shape[1]
    rows = q.view(batch, n_groups, n_heads // n_groups, width)
    return F.scaled_dot_product_attention(rows, k, v).view(batch, n_heads, 1, width)
