"""Attention with a learned memory, differentiable: a window, memory nodes, recalled blocks.

A sequence is cut into blocks of `node` positions. A query sees the positions of its window and,
exactly as well, what is left between the window and the last whole block outside of it. Each block
beyond is either recalled, that is seen exactly, or stands in the memory as one key and one value
that count as often as the block has positions. So every position is seen once, in one of the three
parts. All parts share one softmax; a gate for each part and head is added to its scores.

Which blocks are recalled, each query decides for itself and for each group of heads, by what its
heads give to the memory nodes. Nodes have no rotary position: queries and keys meet unrotated.
With all blocks recalled and gates of zero this is dense attention.

Axes: B batch, H query heads, G key/value heads, T queries, S positions, K head width, N nodes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from deepseek.core.errors import ConfigError

ROWS = 64
"""Queries that are computed together: bounds the copies of recalled keys."""
PARTS = 3
"""Window, memory, recalled blocks: the order of gates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """What a model with a learned memory sees, in tokens."""

    window: int = 512
    """Positions up to a query's own, itself among them; in an encoder as many after it, too."""
    node: int = 256
    """Positions of a block, which is one memory node."""
    recalled: int = 8
    """Blocks that each query recalls beside the sinks."""
    sinks: int = 1
    """First blocks, always recalled; one more is chosen for each that is in the window."""
    encoder: bool = False
    """Whether queries see what comes after them."""

    def __post_init__(self) -> None:
        if not (0 < self.node <= 1 << 16 and 0 < self.window <= 1 << 24):
            raise ConfigError(
                f"memory.node is {self.node}, window {self.window}", "both must be 1 or more"
            )
        if self.recalled < 0 or self.sinks < 0:
            raise ConfigError(
                f"memory.recalled is {self.recalled}, sinks {self.sinks}", "use 0 or more"
            )

    def local(self, positions: Int[Tensor, " T"], length: int) -> tuple[Tensor, Tensor]:
        """First position seen as part of the window, and the one after the last, for each query."""
        first = (positions - self.window + 1).clamp(min=0) // self.node * self.node
        if not self.encoder:
            return first, positions + 1
        end = -(-(positions + self.window) // self.node) * self.node
        return first, end.clamp(max=length)

    def visible(
        self, positions: Int[Tensor, " T"], n_nodes: int, length: int
    ) -> Bool[Tensor, "T N"]:
        """Which blocks lie outside of each query's window."""
        first, end = self.local(positions, length)
        starts = torch.arange(n_nodes, device=positions.device) * self.node
        before = starts + self.node <= first[:, None]
        return before | (starts >= end[:, None]) if self.encoder else before


@dataclass(frozen=True, slots=True)
class Bank:
    """Memory nodes of a sequence so far."""

    keys: Float[Tensor, "B G N K"]
    values: Float[Tensor, "B G N K"]
    counts: Float[Tensor, " N"]
    """Positions that each node stands for."""


def memory_attention(
    q: Float[Tensor, "B H T K"],
    still: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S K"],
    bank: Bank,
    gates: Float[Tensor, "B H T 3"],
    config: MemoryConfig,
    more: Float[Tensor, "B H T N"] | None = None,
) -> tuple[Float[Tensor, "B H T K"], Float[Tensor, "B H T N"]]:
    """Attention of the last T of S positions; cost and memory grow with T, not with T times S.

    Args:
        q: Rotated queries.
        still: The same before their rotation.
        k: Rotated keys of all positions.
        v: Their values.
        bank: Nodes of the blocks; those in a query's window are not looked at.
        gates: Added to the scores of window, memory and recalled blocks.
        config: What is seen.
        more: Added to the scores of memory nodes.

    Returns:
        The mixed values, and the scores of all memory nodes without counts and gates.
    """
    n_tokens, length = q.shape[2], k.shape[2]
    scores = torch.unflatten(still, 1, (k.shape[1], -1)) @ bank.keys[:, :, None].mT
    scores = scores.flatten(1, 2) / math.sqrt(q.shape[-1])
    if more is not None:
        scores = scores + more
    mixed, at = [], length - n_tokens
    for end in range(at // ROWS * ROWS + ROWS, length + ROWS, ROWS):
        rows = slice(at - length + n_tokens, min(end, length) - length + n_tokens)
        inputs = q[:, :, rows], scores[:, :, rows], gates[:, :, rows], k, v, bank.values
        positions = torch.arange(at, min(end, length), device=q.device)
        # Copies of recalled keys are made again for the gradients: kept, they are the largest part.
        if torch.is_grad_enabled() and n_tokens > ROWS:
            part = checkpoint(_rows, *inputs, bank.counts, positions, config, use_reentrant=False)
        else:
            part = _rows(*inputs, bank.counts, positions, config)
        mixed.append(part)
        at = end
    return torch.cat(mixed, 2), scores


def choose_blocks(
    scores: Float[Tensor, "B H T N"],
    visible: Bool[Tensor, "T N"],
    n_groups: int,
    config: MemoryConfig,
) -> tuple[Int[Tensor, "B G T C"], Bool[Tensor, "B G T C"]]:
    """Blocks that each group of heads recalls for each query, and which of them there are."""
    count = min(config.sinks + config.recalled, scores.shape[-1])
    hidden = scores.detach().masked_fill(~visible, -math.inf)
    shares = hidden.softmax(-1).nan_to_num(0.0)  # a query near the beginning has nothing to see
    votes = torch.unflatten(shares, 1, (n_groups, -1)).mean(2)
    votes[..., : config.sinks] += 2.0  # more than any share
    votes = votes.masked_fill(~visible, -1.0)
    top = votes.topk(count, -1)
    return top.indices, top.values >= 0


def _rows(
    q: Tensor,
    scores: Tensor,
    gates: Tensor,
    k: Tensor,
    v: Tensor,
    node_values: Tensor,
    counts: Tensor,
    positions: Tensor,
    config: MemoryConfig,
) -> Float[Tensor, "B H T K"]:
    """A few queries that follow each other."""
    n_groups, length = k.shape[1], k.shape[2]
    rows = torch.unflatten(q, 1, (n_groups, -1)) / math.sqrt(q.shape[-1])  # B G R T K
    gate = torch.unflatten(gates, 1, (n_groups, -1))
    visible = config.visible(positions, counts.shape[0], length)
    chosen, exists = choose_blocks(scores, visible, n_groups, config)

    first, end = config.local(positions, length)
    near = slice(int(first.min()), int(end.max()))
    places = torch.arange(near.start, near.stop, device=q.device)
    unseen = (places < first[:, None]) | (places >= end[:, None])
    local = (rows @ k[:, :, None, near].mT).masked_fill(unseen, -math.inf)

    recalled = torch.zeros_like(visible.expand(*chosen.shape[:3], -1)).scatter(-1, chosen, exists)
    nodes = torch.unflatten(scores, 1, (n_groups, -1)) + counts.log()
    nodes = nodes.masked_fill((~visible | recalled)[:, :, None], -math.inf)

    wide_k, wide_v, missing = _gathered(k, v, chosen, exists, config.node)
    exact = torch.einsum("bgrtk,bgtsk->bgrts", rows, wide_k).masked_fill(missing, -math.inf)
    parts = [local, nodes, exact]
    gated = [part + gate[..., i : i + 1] for i, part in enumerate(parts)]
    weights = torch.cat(gated, -1).softmax(-1)
    sizes = [part.shape[-1] for part in parts]
    near_w, node_w, exact_w = torch.split(weights, sizes, -1)
    mixed = near_w @ v[:, :, None, near] + node_w @ node_values[:, :, None]
    mixed = mixed + torch.einsum("bgrts,bgtsk->bgrtk", exact_w, wide_v)
    return mixed.flatten(1, 2)


def _gathered(
    k: Tensor, v: Tensor, chosen: Tensor, exists: Tensor, node: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values of the chosen blocks, and where there are none."""
    batch, n_groups, length, width = k.shape
    inside = torch.arange(node, device=k.device)
    places = (chosen[..., None] * node + inside).flatten(3)
    missing = ~exists[..., None].expand(*exists.shape, node).flatten(3) | (places >= length)
    flat = places.clamp(max=length - 1).flatten(2)[..., None].expand(-1, -1, -1, width)
    shape = batch, n_groups, places.shape[2], places.shape[3], width
    wide_k, wide_v = (x.gather(2, flat).view(shape) for x in (k, v))
    return wide_k, wide_v, missing[:, :, None]


def seen_by(config: MemoryConfig, position: int, length: int) -> Iterator[tuple[int, int, bool]]:
    """The parts of a sequence as one query meets them, in order: first position, the one after the
    last, and whether that is a block outside of its window. A slow definition for the tests."""
    last = length if config.encoder else position + 1
    for start in range(0, last, config.node):
        end = start + config.node
        is_before = end <= position - config.window + 1
        is_after = start >= position + config.window
        yield start, min(end, last), is_before or is_after


def memory_attention_reference(
    q: Float[Tensor, "B H T K"],
    still: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S K"],
    bank: Bank,
    gates: Float[Tensor, "B H T 3"],
    config: MemoryConfig,
    more: Float[Tensor, "B H T N"] | None = None,
) -> Float[Tensor, "B H T K"]:
    """The definition, query by query."""
    batch, n_heads, n_tokens, width = q.shape
    n_groups, length = k.shape[1], k.shape[2]
    repeats, root = n_heads // n_groups, math.sqrt(width)
    mixed = torch.empty_like(q)
    for b, g, t in torch.cartesian_prod(*map(torch.arange, (batch, n_groups, n_tokens))).tolist():
        position = length - n_tokens + t
        parts = list(seen_by(config, position, length))
        outside = [i for i, (_, _, is_outside) in enumerate(parts) if is_outside]
        heads = range(g * repeats, (g + 1) * repeats)
        asked = {h: still[b, h, t] @ bank.keys[b, g, : len(parts)].mT / root for h in heads}
        if more is not None:
            asked = {h: s + more[b, h, t, : len(parts)] for h, s in asked.items()}
        shares = torch.stack([s[outside].softmax(-1) for s in asked.values()]).sum(0).tolist()
        votes = {
            i: 2.0 * repeats if i < config.sinks else s
            for i, s in zip(outside, shares, strict=True)
        }
        kept = sorted(votes, key=lambda i: -votes[i])[: config.sinks + config.recalled]
        for h in heads:
            scores, values = [], []
            for i, (start, end, is_outside) in enumerate(parts):
                part = 0 if not is_outside else 2 if i in kept else 1
                if part == 1:
                    scores.append((asked[h][i] + bank.counts[i].log() + gates[b, h, t, 1])[None])
                    values.append(bank.values[b, g, i : i + 1])
                else:
                    scores.append(k[b, g, start:end] @ q[b, h, t] / root + gates[b, h, t, part])
                    values.append(v[b, g, start:end])
            mixed[b, h, t] = torch.cat(scores).softmax(-1) @ torch.cat(values)
    return mixed
