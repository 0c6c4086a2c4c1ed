"""AdamW and Muon beside their definitions; what may not change stays to the last bit."""

import math
from itertools import pairwise

import pytest
import torch
from tiny_run import tiny_transformer
from torch import Tensor, nn

from deepseek.core.errors import ConfigError
from deepseek.model.moe.experts import NeuronExperts
from deepseek.train.muon import orthogonal
from deepseek.train.optimiser import Optimiser, OptimiserSettings
from deepseek.train.schedule import Schedule, balance_rate
from deepseek.train.subset import Mask


class Stacked(nn.Module):
    """Four experts in one tensor, and a matrix and a bias beside them."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.experts = nn.Parameter(torch.randn(4, 6, 5, generator=generator))
        self.matrix = nn.Parameter(torch.randn(6, 6, generator=generator))
        self.bias = nn.Parameter(torch.randn(6, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("eoi,bi->bo", self.experts, x) @ self.matrix + self.bias


def learn(model: Stacked, optimiser: Optimiser, n_steps: int = 4) -> None:
    for step in range(n_steps):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        optimiser.take_gradients()
        optimiser.step(1.0)
        optimiser.clear()


def test_adamw_is_the_definition_with_decay_on_matrices_only() -> None:
    model = Stacked()
    settings = OptimiserSettings(rate=0.01, decay=0.3)
    wanted = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in wanted.items()}
    optimiser = Optimiser(model, Mask.everything(model), settings)
    for step in range(1, 4):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        for name, p in model.named_parameters():
            g, (m, v) = p.grad.double(), moments[name]
            m.lerp_(g, 1 - settings.beta1)
            v.lerp_(g * g, 1 - settings.beta2)
            direction = (m / (1 - settings.beta1**step)) / (
                (v / (1 - settings.beta2**step)).sqrt() + settings.epsilon
            )
            decay = settings.decay if name != "bias" else 0.0
            wanted[name] = wanted[name] * (1 - 0.01 * decay) - 0.01 * direction
        optimiser.take_gradients()
        optimiser.step(1.0)
        optimiser.clear()
        for name, p in model.named_parameters():
            assert torch.allclose(p.double(), wanted[name], atol=1e-5), (step, name)


def test_embeddings_do_not_decay() -> None:
    model = tiny_transformer()
    before = model.embedding.weight.detach().clone()
    inner = model.blocks[0].attention.output.weight.detach().clone()
    optimiser = Optimiser(model, Mask.everything(model), OptimiserSettings(rate=0.1, decay=0.5))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step(1.0)
    assert torch.equal(model.embedding.weight, before)
    assert torch.allclose(model.blocks[0].attention.output.weight, 0.95 * inner)


@pytest.mark.parametrize("shape", [(16, 16), (40, 8), (8, 40), (3, 12, 20)])
def test_muon_makes_singular_values_alike_and_keeps_their_directions(shape: tuple) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = torch.linalg.svdvals(orthogonal(matrix))
    assert 0.3 < float(found.min()) <= float(found.max()) < 1.4
    aligned = torch.einsum("...ir,...ij,...rj->...r", u, orthogonal(matrix), v)
    assert torch.allclose(aligned.sort().values, found.sort().values, atol=0.05)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_what_a_mask_leaves_out_stays_to_the_last_bit(kind: str) -> None:
    model = Stacked()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    mask = Mask.matching(model, ["experts[1:3]", "b*"])
    assert mask.n_trained(model) == 2 * 30 + 6
    optimiser = Optimiser(model, mask, OptimiserSettings(kind=kind, rate=0.1, decay=0.5))
    learn(model, optimiser)
    after = dict(model.named_parameters())
    assert torch.equal(after["matrix"], before["matrix"])
    assert torch.equal(after["experts"][[0, 3]], before["experts"][[0, 3]])
    assert (after["experts"][1:3] != before["experts"][1:3]).all()
    assert (after["bias"] != before["bias"]).all()
    assert sum(p.tensor.numel() for p in optimiser.pieces().values()) <= 2 * 66 + 3


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_part_learns_as_if_the_rest_were_not_there(kind: str) -> None:
    settings = OptimiserSettings(kind=kind, rate=0.1)
    whole, part = Stacked(), Stacked()
    learn(part, Optimiser(part, Mask.matching(part, ["experts[1:2]"]), settings), 1)
    learn(whole, Optimiser(whole, Mask.everything(whole), settings), 1)
    assert torch.allclose(part.experts[1], whole.experts[1], atol=1e-6)


def test_muon_makes_each_experts_matrix_orthogonal_by_itself() -> None:
    """Experts of any size lie below each other; with a mask only some of them are there."""
    sizes, settings = (2, 5, 3), OptimiserSettings(kind="muon", rate=0.1, decay=0.0)
    for rows in (None, torch.tensor([0, 1, 7, 8, 9])):
        experts = NeuronExperts(sizes, 6)
        gradients = {}
        for name, parameter in experts.named_parameters():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
            parameter.grad = torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(2)
            )
            gradients[name] = parameter.grad.clone()
        before = experts.down.detach().clone()
        mask = Mask({"down": rows})
        optimiser = Optimiser(experts, mask, settings)
        optimiser.take_gradients()
        optimiser.step(1.0)
        wanted = before.clone()
        for first, end in ((0, 2), (2, 7), (7, 10)):
            if rows is None or first in rows.tolist():
                own = gradients["down"][first:end]
                direction = torch.lerp(own, 0.05 * own, settings.momentum)
                size = 0.2 * max(own.shape) ** 0.5
                wanted[first:end] -= 0.1 * size * orthogonal(direction)
        torch.testing.assert_close(experts.down.detach(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("patterns", [["nothing"], ["experts[2:9]"], ["experts[2:2]"], ["a[b"]])
def test_masks_that_match_nothing_are_refused(patterns: list) -> None:
    with pytest.raises(ConfigError):
        Mask.matching(Stacked(), patterns)


def test_schedules_rise_and_fall_where_they_should() -> None:
    cosine = [Schedule().factor(step, 100) for step in range(100)]
    assert cosine[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert cosine[5] == 1.0
    assert cosine[52] == pytest.approx(0.5, abs=0.02)
    assert cosine[99] == pytest.approx(0.0, abs=1e-12)
    wsd = Schedule(kind="wsd", final=0.1, decay=0.2)
    factors = [wsd.factor(step, 100) for step in range(100)]
    assert factors[5:80] == [1.0] * 75
    assert factors[99] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(factors[79:]))
    assert Schedule(kind="constant", warm_up=0.0).factor(0, 10) == 1.0
    with pytest.raises(ConfigError):
        Schedule(kind="wsd", warm_up=0.5, decay=0.6)


def test_the_balance_of_experts_rests_at_the_end() -> None:
    rates = [balance_rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1e-2)
    assert rates[94] == pytest.approx(1e-3, rel=0.05)
    assert rates[95:] == [0.0] * 5
    assert math.isclose(rates[47], 5.5e-3, rel_tol=0.05)
