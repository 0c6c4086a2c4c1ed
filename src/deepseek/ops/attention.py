"""Causal softmax attention with grouped key and value heads.

Axes: B batch, H query heads, G key/value heads, T query tokens, S key tokens, K head width.
Queries are the last T of the S positions.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
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
    return merge_parts(
        present, present_mass, past.reshape(q.shape), past_mass.reshape(present_mass.shape)
    )[0]


def attention_part(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S K"],
    *,
    is_causal: bool = False,
    key_mask: Bool[Tensor, "B S"] | None = None,
) -> tuple[Float[Tensor, "B H T K"], Float[Tensor, "B H T"]]:
    """Attention to a part of the keys, and how much weight that part has.

    Args:
        q: Queries.
        k: Keys of this part. If causal, query t sees the keys up to t, and S is T.
        v: Values of this part.
        is_causal: Whether a query sees only the keys up to its own place.
        key_mask: True where a key may be seen; None: everywhere. Not with `is_causal`.

    Returns:
        The mixed values, and the logarithm of each query's softmax denominator.
    """
    batch, n_heads, n_queries, width = q.shape
    group = n_heads // k.shape[1]
    if is_causal:
        wide_k, wide_v = (x.repeat_interleave(group, 1) for x in (k, v))
        return _flash(q, wide_k, wide_v, True)
    # Without a causal mask the heads of a group become rows of one query block.
    rows = q.reshape(batch, k.shape[1], group * n_queries, width)
    mask = None
    if key_mask is not None:
        mask = torch.zeros(key_mask.shape, dtype=q.dtype, device=q.device)
        mask = mask.masked_fill(~key_mask, -math.inf)[:, None, None, :]
    mixed, mass = _flash(rows, k, v, False, mask)
    return mixed.reshape(q.shape), mass.reshape(q.shape[:3])


def merge_parts(
    first: Float[Tensor, "B H T K"],
    first_mass: Float[Tensor, "B H T"],
    second: Float[Tensor, "B H T K"],
    second_mass: Float[Tensor, "B H T"],
) -> tuple[Float[Tensor, "B H T K"], Float[Tensor, "B H T"]]:
    """Attention to two parts of the keys from the attention to each (online softmax)."""
    # The masses are logarithms of the softmax's denominators: their share weighs the two parts.
    share = torch.sigmoid(second_mass - first_mass).unsqueeze(-1)
    wide = share.dtype
    mixed = torch.lerp(first.to(wide), second.to(wide), share).to(first.dtype)
    return mixed, torch.logaddexp(first_mass, second_mass)


def _flash(
    q: Tensor, k: Tensor, v: Tensor, is_causal: bool, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention and the logarithm of each query's softmax denominator."""
    if q.device.type == "cpu":
        output, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, is_causal, attn_mask=mask
        )
        return output, mass
    scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
    if is_causal:
        scores = scores.masked_fill(~causal_mask(q.shape[2], k.shape[2], q.device), -math.inf)
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(-1).to(v.dtype) @ v), scores.logsumexp(-1)


def _one_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query a head: the heads of a group become rows of one query block.

    Keys and values are then read once a group instead of once a head.
    """
    batch, n_heads, _, width = q.shape
    n_groups = k.shape[1]
    rows = q.view(batch, n_groups, n_heads // n_groups, width)
    return F.scaled_dot_product_attention(rows, k, v).view(batch, n_heads, 1, width)
