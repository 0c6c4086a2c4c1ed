"""Clusters of points: k-means, and a kind whose clusters have sizes that are given.

Axes: N points, D width, K clusters.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROUNDS = 12
"""Of reassignment; centres hardly move after that."""


def kmeans(
    points: Float[Tensor, "N D"], n_clusters: int, generator: torch.Generator
) -> Float[Tensor, "K D"]:
    """Centres of clusters, begun as k-means++ (Arthur and Vassilvitskii 2007).

    With fewer points than clusters some centres are alike.
    """
    squares = (points * points).sum(1, keepdim=True)  # once: it takes longer than the products
    centres = points[_pick(torch.ones(len(points)), generator)][None]
    nearest = _distances(points, centres, squares)[:, 0]
    while len(centres) < n_clusters:
        fresh = points[_pick(nearest, generator)][None]
        centres = torch.cat((centres, fresh))
        nearest = torch.minimum(nearest, _distances(points, fresh, squares)[:, 0])
    for _ in range(ROUNDS):
        owner = _distances(points, centres, squares).argmin(1)
        is_own = torch.nn.functional.one_hot(owner, n_clusters).to(points.dtype)
        counts = is_own.sum(0)[:, None]
        # As a product, since adding rows up by index is several times slower.
        centres = torch.where(counts > 0, is_own.T @ points / counts.clamp(min=1), centres)
    return centres


def sized_clusters(
    points: Float[Tensor, "N D"], sizes: Sequence[int], generator: torch.Generator
) -> Int[Tensor, " N"]:
    """The cluster of each point, where cluster k has `sizes[k]` points; greedy, best pairs first.

    Args:
        points: As many as all sizes together.
        sizes: Of the clusters.
        generator: For the beginning.
    """
    assert len(points) == sum(sizes)
    centres = kmeans(points, len(sizes), generator)
    owner = torch.zeros(len(points), dtype=torch.int64)
    for _ in range(4):
        owner = _assigned(_distances(points, centres), sizes)
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        centres = sums / torch.tensor(list(sizes))[:, None]
    return owner


def _assigned(distances: Float[Tensor, "N K"], sizes: Sequence[int]) -> Int[Tensor, " N"]:
    n_clusters = len(sizes)
    owner, room, left = [-1] * len(distances), list(sizes), len(distances)
    # Nearness beside that to other clusters: whom it matters to most chooses first.
    relative = distances - distances.mean(1, keepdim=True)
    for place in relative.flatten().argsort(stable=True).tolist():
        point, cluster = divmod(place, n_clusters)
        if owner[point] < 0 and room[cluster]:
            owner[point] = cluster
            room[cluster] -= 1
            left -= 1
            if not left:
                break
    return torch.tensor(owner)


def _distances(
    points: Tensor, centres: Tensor, squares: Tensor | None = None
) -> Float[Tensor, "N K"]:
    """Squared ones; `squares` of the points, if they are known."""
    if squares is None:
        squares = (points * points).sum(1, keepdim=True)
    return (squares + (centres * centres).sum(1) - 2 * (points @ centres.T)).clamp(min=0)


def _pick(weights: Tensor, generator: torch.Generator) -> int:
    # A sum instead of `multinomial`, which refuses more than 2^24 weights and all of 0.
    sums = weights.double().cumsum(0)
    place = torch.rand((), generator=generator, dtype=torch.float64) * sums[-1]
    return min(len(weights) - 1, int(torch.searchsorted(sums, place)))
