"""Clusters: found where they are, of the sizes that were asked for."""

import pytest
import torch

from deepseek.adapt.clusters import kmeans, sized_clusters


def test_kmeans_finds_what_is_there() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(5, 20, generator=generator) * 10
    points = centres.repeat(40, 1) + torch.randn(200, 20, generator=generator)
    found = kmeans(points, 5, generator)
    distances = (found[:, None] - centres).norm(dim=2)
    assert sorted(distances.argmin(1).tolist()) == [0, 1, 2, 3, 4]
    assert float(distances.amin(1).max()) < 1.5


@pytest.mark.parametrize("n_points", [1, 3])
def test_fewer_points_than_clusters(n_points: int) -> None:
    generator = torch.Generator().manual_seed(0)
    found = kmeans(torch.randn(n_points, 4, generator=generator), 5, generator)
    assert found.shape == (5, 4)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("sizes", [[40, 40, 40], [1, 100, 19], [120]])
def test_sizes_are_kept(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(1)
    owner = sized_clusters(torch.randn(120, 8, generator=generator), sizes, generator)
    assert owner.bincount(minlength=len(sizes)).tolist() == sizes


def test_sized_clusters_keep_together_what_is_alike() -> None:
    generator = torch.Generator().manual_seed(2)
    centres = torch.eye(4, 30) * 10
    points = centres.repeat(25, 1) + torch.randn(100, 30, generator=generator) * 0.5
    owner = sized_clusters(points, [25] * 4, generator)
    for kind in range(4):
        assert len(set(owner[kind::4].tolist())) == 1
