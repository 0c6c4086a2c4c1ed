"""Entropy over clusters of sampled answers, and how settled an estimate of it is.

Farquhar et al., Nature 630, 625 (2024). All in nats.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

DRAWS = 512
PRIOR = 0.5
"""Counts added to each cluster seen, and to all those not seen together (Jeffreys)."""


def discrete_entropy(clusters: Sequence[int]) -> float:
    """Entropy of the shares of answers in each cluster: 0 to log n.

    Needs no probabilities, so it can be had of any model.
    """
    n = len(clusters)
    # Sorted, so that the sum does not depend on which cluster came first.
    shares = sorted(count / n for count in Counter(clusters).values())
    return max(0.0, -math.fsum(share * math.log(share) for share in shares))


def likelihood_entropy(
    clusters: Sequence[int], texts: Sequence[str], logprobs: Sequence[float]
) -> float:
    """Entropy of clusters weighted by how likely their answers are.

    A cluster's weight is the sum over its different texts of exp(log-probability); a text drawn
    twice counts once, since how often it is drawn is in its probability already. The weights are
    scaled to a sum of 1: what was never drawn is not known.

    Args:
        clusters: Of each answer.
        texts: The answers.
        logprobs: Of each answer, in nats; a token's mean, so that long ones are not unlikely only
            because they are long, or the sum.
    """
    weights: dict[int, dict[str, float]] = {}
    top = max(logprobs)
    for cluster, text, logprob in zip(clusters, texts, logprobs, strict=True):
        weights.setdefault(cluster, {})[text] = math.exp(logprob - top)
    sums = sorted(math.fsum(members.values()) for members in weights.values())
    total = math.fsum(sums)
    shares = [value / total for value in sums if value > 0]
    return max(0.0, -math.fsum(share * math.log(share) for share in shares))


def uncertainty(clusters: Sequence[int], seed: int = 0) -> float:
    """Standard deviation of the entropy, given these answers: what more of them may change.

    Of the entropies of distributions drawn from the Dirichlet posterior of the clusters' shares,
    in which clusters not seen yet have a share, too. It is small for answers that all say the
    same, and again for those of which each says something else.
    """
    counts = sorted(Counter(clusters).values())
    weights = np.array([*counts, 0.0]) + PRIOR
    shares = np.random.default_rng(seed).dirichlet(weights, DRAWS)
    shares = np.maximum(shares, 1e-300)
    return float((shares * np.log(shares)).sum(axis=1).std())
