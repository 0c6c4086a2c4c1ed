"""Cross entropy summed over labelled positions, in chunks that bound its memory.

The caller divides by the number of labels of the whole step, so that many small passes give the
gradient of one large one. Logits exist for labelled positions only, and for one chunk at a time:
its gradient goes back to the hidden states before the next chunk begins.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int
from torch import Tensor

from deepseek.model.activations import CHUNK

Terms = Callable[[Float[Tensor, " n"], Int[Tensor, " n"]], Float[Tensor, " n"]]
"""From the cross entropies of some positions and their places to what is summed instead."""


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over the labelled positions of a pass."""

    nats: Float64[Tensor, " S"]
    """Cross entropy by source."""
    counts: Int[Tensor, " S"]
    """Labelled positions by source."""
    gradient: Float[Tensor, "1 N D"]
    """Of what was summed, times its scale, with regard to the hidden states."""


def backward_from_logits(
    project: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "1 N D"],
    labels: Int[Tensor, " N"],
    sources: Int[Tensor, " N"],
    n_sources: int,
    *,
    scale: float,
    z_loss: float = 0.0,
    terms: Terms | None = None,
    chunk: int = CHUNK,
) -> LossSums:
    """Compute the loss, and send its gradient into the head's weights.

    Args:
        project: Hidden states to logits: final norm and head.
        hidden: What the last block returned; no gradient goes into it here.
        labels: Next tokens; positions with negative ones are left out.
        sources: Where each position comes from.
        n_sources: How many sources there are.
        scale: What sums are multiplied by in the gradient: 1 by the labels of a step.
        z_loss: Weight of the squared logarithm of the softmax's denominator.
        terms: What is made of the cross entropies before they are summed.
        chunk: Positions computed together.
    """
    places = (labels >= 0).nonzero()[:, 0]
    nats = torch.zeros(n_sources, dtype=torch.float64, device=hidden.device)
    gradient = torch.zeros_like(hidden)
    for part in torch.split(places, chunk):
        rows = hidden.detach()[:, part].requires_grad_()
        logits = project(rows)[0].float()
        losses = F.cross_entropy(logits, labels[part], reduction="none")
        if terms is not None:
            losses = terms(losses, part)
        total = losses.sum()
        if z_loss:
            total = total + z_loss * logits.logsumexp(-1).square().sum()
        (scale * total).backward()  # type: ignore[no-untyped-call]
        assert rows.grad is not None
        gradient[:, part] = rows.grad
        nats.index_add_(0, sources[part], losses.detach().double())
    counts = torch.bincount(sources[places], minlength=n_sources)
    return LossSums(nats, counts, gradient)


@torch.no_grad()
def token_nats(
    project: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "1 N D"],
    labels: Int[Tensor, " N"],
    chunk: int = CHUNK,
) -> Float[Tensor, " N"]:
    """Cross entropy of each position, without gradients; 0 where there is no label."""
    found = torch.zeros(labels.shape, dtype=torch.float32, device=hidden.device)
    for part in torch.split((labels >= 0).nonzero()[:, 0], chunk):
        logits = project(hidden[:, part])[0].float()
        found[part] = F.cross_entropy(logits, labels[part], reduction="none").float()
    return found


@torch.no_grad()
def sum_nats(
    project: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "1 N D"],
    labels: Int[Tensor, " N"],
    chunk: int = CHUNK,
) -> float:
    """Cross entropy of the labelled positions, without gradients."""
    return float(token_nats(project, hidden, labels, chunk).double().sum())
