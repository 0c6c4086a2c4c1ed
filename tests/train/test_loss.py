"""The chunked loss gives the sums and gradients of the plain one."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_run import VOCABULARY, tiny_transformer

from deepseek.model.packed import PackedCache
from deepseek.train.loss import backward_from_logits, sum_nats


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("chunk", [7, 1_000])
def test_gradients_and_sums_are_those_of_the_definition(z_loss: float, chunk: int) -> None:
    model = tiny_transformer().double()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (1, 40), generator=generator)
    labels = torch.randint(VOCABULARY, (40,), generator=generator)
    labels[::3] = -100
    sources = torch.arange(40) % 2

    logits = model(ids)[0]
    kept = labels >= 0
    losses = F.cross_entropy(logits[kept], labels[kept], reduction="none")
    z = logits[kept].logsumexp(-1).square()
    ((losses + z_loss * z).sum() / 26).backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    hidden = model.hidden_states(ids, PackedCache((40,)))

    def project(x: torch.Tensor) -> torch.Tensor:
        return model.head(model.norm(x))

    sums = backward_from_logits(
        project, hidden, labels, sources, 3, scale=1 / 26, z_loss=z_loss, chunk=chunk
    )
    hidden.backward(sums.gradient)
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, wanted[name], rtol=1e-5, atol=1e-8), name
    for source in (0, 1):
        own = losses.detach()[sources[kept] == source]
        assert float(sums.nats[source]) == pytest.approx(float(own.sum()), rel=1e-6)
        assert int(sums.counts[source]) == len(own)
    assert int(sums.counts[2]) == 0
    total = float(losses.detach().sum())
    assert math.isclose(sum_nats(project, hidden.detach(), labels, chunk), total, rel_tol=1e-6)


def test_logits_exist_for_labelled_positions_only() -> None:
    model = tiny_transformer()
    seen = []

    def project(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[1])
        return model.head(model.norm(x))

    labels = torch.full((30,), -100)
    labels[3:14] = 1
    hidden = torch.randn(1, 30, 32)
    backward_from_logits(
        project, hidden, labels, torch.zeros(30, dtype=torch.int64), 1, scale=1.0, chunk=4
    )
    assert seen == [4, 4, 3]
