"""How experts are kept busy alike: a bias that follows loads, losses, a start from quantiles.

Loss-free balancing (Wang et al. 2024, arXiv:2408.15664) moves a bias that only the choice sees.
Loads are those of the whole step: a balance that is asked of every small batch would spread the
tokens of one domain over the experts of all others (Qiu et al. 2025, arXiv:2501.11873).

Axes: T tokens, E experts.
"""

import torch
from jaxtyping import Bool, Float, Float32, Num
from torch import Tensor

from deepseek.ops.moe.gate import EPSILON, Bounds


def balanced_bias(
    bias: Float[Tensor, " E"], counts: Num[Tensor, " E"], bounds: Bounds, rate: float
) -> Float[Tensor, " E"]:
    """Biases after a step: up for experts below their group's mean load, down for those above.

    Groups are balanced each by itself, and the mean bias of each stays what it was.

    Args:
        bias: Before.
        counts: Tokens that went to each expert in the step, on all ranks.
        bounds: Of the groups.
        rate: How far a bias moves.
    """
    moved = bias.clone()
    for first, end in bounds:
        load = counts[first:end].double()
        change = rate * (load.mean() - load).sign()
        moved[first:end] += (change - change.mean()).to(bias)
    return moved


def quantile_bias(scores: Float[Tensor, "T E"], share: float) -> Float[Tensor, " E"]:
    """Biases with which each expert's score is above 0 for one share of the tokens.

    Args:
        scores: Of a sample of tokens.
        share: Wanted for each expert, e.g. 2/16.
    """
    # torch.quantile refuses more than 16 M numbers.
    place = min(scores.shape[0] - 1, int((1 - share) * scores.shape[0]))
    return -scores.sort(0).values[place]


def balance_loss(
    scores: Float[Tensor, "T E"],
    counts: Num[Tensor, " E"],
    allowed: Bool[Tensor, "T E"] | None = None,
) -> Float32[Tensor, ""]:
    """E times the product of load and mean score, summed over experts (Fedus et al. 2021).

    1 if all are alike. Gradients pass through the scores only.

    Args:
        scores: Of the tokens of this pass.
        counts: Tokens by expert, of all passes of the step so far.
        allowed: Experts that a token may go to.
    """
    if allowed is not None:
        scores = scores.masked_fill(~allowed, 0.0)
    shares = scores / (scores.sum(-1, keepdim=True) + EPSILON)
    load = counts.float() / counts.sum().clamp(min=1)
    return scores.shape[1] * (load * shares.float().mean(0)).sum()


def z_loss(logits: Float[Tensor, "T E"]) -> Float[Tensor, ""]:
    """Mean square of the logits' log-sum-exp: keeps them small (Zoph et al. 2022)."""
    return logits.logsumexp(-1).square().mean()


def expert_counts(experts: Num[Tensor, "T K"], n_experts: int) -> Num[Tensor, " E"]:
    """Tokens that went to each expert."""
    return torch.bincount(experts.flatten(), minlength=n_experts + 1)[:n_experts]
