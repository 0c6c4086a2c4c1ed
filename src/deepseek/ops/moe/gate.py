"""Which experts each token goes to, and how much each of them counts.

Scores are sigmoids in float32. A bias for each expert takes part in the choice only: weights come
from the scores alone, so that balancing bends no output (DeepSeek-V3, arXiv:2412.19437, 2.1.2).

A slot that no expert may take holds the number E, one above the last expert, and counts for 0.

Axes: T tokens, D width, E experts, K slots, N groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

EPSILON = 1e-20
"""Keeps a sum of weights from being 0 where no expert was chosen."""

Bounds = Sequence[tuple[int, int]]
"""The first expert of each group, and the one after its last."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Where tokens go."""

    experts: Int[Tensor, "T K"]
    """E: nobody."""
    weights: Float[Tensor, "T K"]


def gate_logits(x: Float[Tensor, "T D"], weight: Float[Tensor, "E D"]) -> Float32[Tensor, "T E"]:
    """What each expert's row says to each token, in float32 whatever autocast wants."""
    if not torch.is_autocast_enabled(x.device.type):
        return F.linear(x.float(), weight.float())
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), weight.float())


def choose(
    scores: Float[Tensor, "T E"],
    bias: Float[Tensor, " E"],
    n_active: int,
    allowed: Bool[Tensor, "#T E"] | None = None,
) -> Int[Tensor, "T K"]:
    """The experts with the highest biased scores, the best first.

    Args:
        scores: Unbiased.
        bias: Added for this choice only.
        n_active: Slots of each token, 0 to E.
        allowed: Experts that a token may go to; None: all.
    """
    biased = scores.detach() + bias
    if allowed is not None:
        biased = biased.masked_fill(~allowed, -torch.inf)
    best, experts = biased.topk(n_active, -1)
    return experts if allowed is None else experts.masked_fill(best.isneginf(), scores.shape[1])


def emptied(
    biased: Float[Tensor, "T E"], experts: Int[Tensor, "T K"], level: Float[Tensor, "T 1"]
) -> Int[Tensor, "T K"]:
    """Slots without those experts whose biased score is not above a token's level."""
    own = F.pad(biased.detach(), (0, 1), value=-torch.inf).gather(1, experts)
    return experts.masked_fill(own <= level.detach(), biased.shape[1])


def margins_of(
    biased: Float[Tensor, "T E"], experts: Int[Tensor, "T K"], level: Float[Tensor, "T 1"] | None
) -> Float[Tensor, "T K"]:
    """How far the biased scores of chosen experts are above a token's level; -inf in empty slots.

    Args:
        biased: What the choice was made by.
        experts: Chosen.
        level: Of each token; None: 0.
    """
    own = F.pad(biased.detach(), (0, 1), value=-torch.inf).gather(1, experts)
    return own if level is None else own - level.detach()


def chosen_scores(
    scores: Float[Tensor, "T E"], experts: Int[Tensor, "T K"]
) -> Float[Tensor, "T K"]:
    """Unbiased scores of the chosen ones, 0 in empty slots."""
    return F.pad(scores, (0, 1)).gather(1, experts)


def normalised(chosen: Float[Tensor, "T K"]) -> Float[Tensor, "T K"]:
    """Weights that sum to 1 for each token that has an expert."""
    return chosen / (chosen.sum(-1, keepdim=True) + EPSILON)


def dense_gates(choice: Choice, n_experts: int) -> Float[Tensor, "T E"]:
    """Weights by expert, 0 for those that were not chosen."""
    weights = choice.weights
    empty = weights.new_zeros(weights.shape[0], n_experts + 1)
    return empty.scatter(1, choice.experts, weights)[:, :n_experts]


def best_groups(
    biased: Float[Tensor, "T E"], bounds: Bounds, n_groups: int, always: Sequence[int] = ()
) -> Bool[Tensor, "T E"]:
    """Which experts a token may go to if it may go to few groups.

    A group is worth the sum of its two best experts (as in DeepSeek-V3); which domain a token
    belongs to is what its experts say.

    Args:
        biased: What the choice is made by.
        bounds: Of all groups, in order.
        n_groups: That are chosen.
        always: Groups that all tokens may go to, beside the chosen ones.
    """
    worth = torch.stack(
        [biased[:, a:b].topk(min(2, b - a), -1).values.sum(-1) for a, b in bounds], -1
    )
    worth[:, list(always)] = torch.inf
    chosen = worth.topk(min(len(bounds), n_groups + len(always)), -1).indices
    is_chosen = torch.zeros_like(worth, dtype=torch.bool).scatter(1, chosen, True)
    sizes = torch.tensor([b - a for a, b in bounds], device=biased.device)
    return is_chosen.repeat_interleave(sizes, 1)


def hashed(token_ids: Int[Tensor, " T"], n_experts: int) -> Float32[Tensor, "T E"]:
    """Scores that depend on the token's id and nothing else (Roller et al. 2021), in 0.5 to 1.

    Their order is as good as random from one id to the next.
    """
    experts = torch.arange(1, n_experts + 1, device=token_ids.device)
    mixed = (token_ids[:, None].long() + 1) * 0x9E3779B1 + experts * 0x85EBCA77
    for factor in (0x2C1B3C6D, 0x297A2D39):
        mixed = ((mixed ^ (mixed >> 15)) * factor) & 0x7FFFFFFF
    return 0.5 + (mixed >> 8).float() / 2**24
