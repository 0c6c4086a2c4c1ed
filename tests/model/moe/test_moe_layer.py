"""Models with mixtures: what a pass computes, domains, counts, balance, losses, training."""

from dataclasses import replace

import pytest
import torch
from moe_models import FORMS, FULL, GROUPS, LOW_RANK, PARTS, SLICES, ids_of, layers_of, model_of
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from deepseek.model.cache import DenseCache
from deepseek.model.moe.config import MoEConfig
from deepseek.model.moe.gate import UNKNOWN, Routing
from deepseek.model.moe.layer import LowRankMixture, NeuronMixture
from deepseek.model.transformer import Transformer
from deepseek.ops.moe.gate import Choice
from deepseek.ops.moe.low_rank import low_rank_reference
from deepseek.ops.moe.neurons import neurons_reference


def routing_of(n: int, domain: int | None = None) -> Routing:
    ids = torch.arange(n)
    return Routing(ids, None if domain is None else torch.full((n,), domain))


def slow(layer: LowRankMixture | NeuronMixture, x: Tensor, choice: Choice) -> Tensor:
    """What a layer is, written down once more."""
    if isinstance(layer, LowRankMixture):
        e, d = layer.experts, layer.dense
        assert d.gate_up.weight is not None
        assert d.down.weight is not None
        gate, up = (x @ d.gate_up.weight.T).chunk(2, -1)
        gate = low_rank_reference(x, gate, choice, e.sizes, (e.gate_a, e.gate_b), e.scale)
        up = low_rank_reference(x, up, choice, e.sizes, (e.up_a, e.up_b), e.scale)
        inner = gate.sigmoid() * gate * up
        down = inner @ d.down.weight.T
        return low_rank_reference(inner, down, choice, e.sizes, (e.down_a, e.down_b), e.scale)
    if layer.scale is not None:
        weights = torch.stack(
            [1 + w * layer.scale[e] for e, w in zip(choice.experts, choice.weights, strict=True)]
        )
        choice = Choice(choice.experts, weights)
    matrices = (layer.experts.gate_up, layer.experts.down)
    y = neurons_reference(x, choice, layer.experts.sizes, matrices)
    return y if layer.dense is None else y + layer.dense(x[None])[0]


@pytest.mark.parametrize("n_tokens", [1, 3, 60])
@pytest.mark.parametrize("moe", FORMS.values(), ids=FORMS)
@torch.no_grad()
def test_layers_compute_what_they_are(moe: MoEConfig, n_tokens: int) -> None:
    layer = layers_of(model_of(moe))[0]
    assert isinstance(layer, LowRankMixture | NeuronMixture)
    x = torch.randn(n_tokens, 128, generator=torch.Generator().manual_seed(n_tokens))
    routing = routing_of(n_tokens)
    wanted = slow(layer, x, layer.gate(x, routing))
    torch.testing.assert_close(layer(x[None], routing)[0], wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("moe", FORMS.values(), ids=FORMS)
@torch.inference_mode()
def test_step_by_step_equals_one_pass(moe: MoEConfig) -> None:
    model = model_of(moe)
    ids = ids_of(40)
    cache = DenseCache(model.config, dtype=torch.float32, device=torch.device("cpu"))
    steps = [model(part, cache) for part in ids.split([20, 1, 1, 18], 1)]
    torch.testing.assert_close(torch.cat(steps, 1), model(ids), atol=2e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_fresh_low_rank_experts_change_no_bit(dtype: torch.dtype) -> None:
    model = model_of(LOW_RANK)
    for layer in layers_of(model):
        for name, parameter in layer.experts.named_parameters():
            if name.endswith("_b"):
                parameter.zero_()
    dense = Transformer(replace(model.config, moe=None))
    names = {k.replace(".dense.", "."): v for k, v in model.state_dict().items()}
    dense.load_state_dict({k: v for k, v in names.items() if k in dense.state_dict()})
    ids = ids_of(50, batch=2)
    for _ in range(2):
        assert torch.equal(model.to(dtype)(ids), dense.to(dtype)(ids))
        assert torch.equal(model(ids[:1, :1]), dense(ids[:1, :1]))
        for layer in layers_of(model):  # and whatever the gate says
            layer.gate.weight.normal_()


def test_tokens_with_a_label_go_to_their_domain_and_to_the_general_experts() -> None:
    model = model_of(replace(FULL, n_active_experts=3))
    ids = ids_of(90)
    domains = torch.tensor([[1] * 30 + [2] * 30 + [UNKNOWN] * 30])
    model(ids, domains=domains)
    for layer in layers_of(model):
        load = layer.take_load()
        assert load.sum(1).tolist() == [0, 90, 90, 90]
        assert load[1, :2].sum() > 0
        assert load[1, 5:].sum() == 0
        assert load[2, 2:5].sum() == 0
        assert all(load[3, a:b].sum() > 0 for a, b in FULL.bounds)
        assert layer.take_load().sum() == 0


def test_slots_stay_empty_where_a_domain_has_too_few_experts() -> None:
    model = model_of(replace(FULL, n_active_experts=8))
    model(ids_of(10), domains=torch.full((1, 10), 1))
    assert layers_of(model)[0].take_counts().tolist() == [10] * 5 + [0] * 3


@torch.no_grad()
def test_without_labels_tokens_choose_their_domain() -> None:
    model = model_of(replace(FULL, n_active_experts=3, n_domains=1))
    layer = layers_of(model)[0]
    x = torch.randn(200, 128)
    experts = layer.gate(x, routing_of(200)).experts
    is_text = ((experts >= 2) & (experts < 5)).any(1)
    is_code = ((experts >= 5) & (experts < 8)).any(1)
    assert not (is_text & is_code).any()
    assert is_text.any()
    assert is_code.any()


@torch.no_grad()
def test_each_token_has_one_expert_of_each_part_at_weight_one() -> None:
    layer = layers_of(model_of(PARTS))[0]
    choice = layer.gate(torch.randn(50, 128), routing_of(50))
    assert torch.equal(choice.experts % 2, torch.tensor([[0, 1]] * 50))
    assert torch.equal(choice.weights, torch.ones(50, 2))


def test_the_gate_of_parts_learns_although_weights_are_one() -> None:
    model = model_of(PARTS).train()
    model(ids_of(30)).square().mean().backward()
    for layer in layers_of(model):
        assert layer.gate.weight.grad is not None
        assert layer.gate.weight.grad.abs().sum() > 0


def test_fixed_routing_takes_the_first_experts_of_the_domain() -> None:
    model = model_of(replace(FULL, routing="fixed"))
    model(ids_of(30), domains=torch.tensor([[1] * 10 + [2] * 10 + [UNKNOWN] * 10]))
    load = layers_of(model)[0].take_load()
    assert load.tolist() == [
        [0] * 8,
        [0, 0, 10, 10, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 10, 10, 0],
        [10, 10, 0, 0, 0, 0, 0, 0],
    ]


@torch.no_grad()
def test_hashed_routing_depends_on_the_token_alone() -> None:
    layer = layers_of(model_of(replace(FULL, routing="hash")))[0]
    ids = torch.randint(512, (400,))
    first = layer.gate(torch.randn(400, 128), Routing(ids)).experts
    second = layer.gate(torch.randn(400, 128), Routing(ids)).experts
    assert torch.equal(first, second)
    load = layer.take_counts()
    assert load.min() > 0.5 * load.float().mean()


def test_balance_and_losses_follow_the_protocol_of_trainers() -> None:
    model = model_of(replace(FULL, balance_loss=0.01, z_loss=0.001))
    layer = layers_of(model)[0]
    model(ids_of(30))
    assert layer.auxiliary_loss() is None
    layer.take_counts()
    model.train()
    model(ids_of(30))
    loss = layer.auxiliary_loss()
    assert loss is not None
    loss.backward()
    assert layer.gate.weight.grad is not None
    counts = layer.take_counts()
    assert int(counts.sum()) == 60
    before = layer.gate.bias.clone()
    layer.update_balance(counts, 0.01)
    moved = layer.gate.bias - before
    assert all(abs(float(moved[a:b].mean())) < 1e-6 for a, b in FULL.bounds)
    for first, end in FULL.bounds:
        high, low = counts[first:end].argmax() + first, counts[first:end].argmin() + first
        assert moved[high] <= moved[low]
    model(ids_of(30))
    silent = layers_of(model_of(replace(FULL, balance="none")))[0]
    silent.update_balance(counts, 0.01)
    assert model_of(FULL).train() is not None
    assert layers_of(model_of(FULL).train())[0].auxiliary_loss() is None


def test_unbalanced_gates_keep_their_biases() -> None:
    layer = layers_of(model_of(replace(FULL, balance="none")))[0]
    before = layer.gate.bias.clone()
    layer.update_balance(torch.tensor([9, 0, 0, 0, 0, 0, 0, 0]), 0.1)
    assert torch.equal(layer.gate.bias, before)


def test_the_balance_loss_is_of_all_passes_of_a_step() -> None:
    """Two passes whose loads complement each other are balanced, although each alone is not."""
    moe = MoEConfig(form="full", groups=(GROUPS[0],), n_active_experts=1, balance_loss=1.0)
    layer = layers_of(model_of(moe).train())[0]
    layer.gate.bias.zero_()
    x = torch.randn(20, 128)
    with torch.no_grad():
        layer.gate.weight.copy_(torch.stack([x[0], -x[0]]))
    layer.gate(x[:1].repeat(20, 1), routing_of(20))
    alone = layer.auxiliary_loss()
    layer.gate(-x[:1].repeat(20, 1), routing_of(20))
    both = layer.auxiliary_loss()
    assert alone is not None
    assert both is not None
    assert float(alone.detach()) > 1.9
    assert float(both.detach()) == pytest.approx(1.0, abs=1e-3)


def test_checkpointed_blocks_count_tokens_once() -> None:
    model = model_of(LOW_RANK).train()
    layer = layers_of(model)[0]
    x = torch.randn(1, 12, 128, requires_grad=True)
    y = checkpoint(layer, x, routing_of(12), use_reentrant=False)
    assert isinstance(y, Tensor)
    y.sum().backward()
    assert int(layer.take_counts().sum()) == 24


@pytest.mark.parametrize("moe", FORMS.values(), ids=FORMS)
def test_all_parts_learn(moe: MoEConfig) -> None:
    """Ten steps on one batch: the loss falls, and every tensor moves."""
    model = model_of(replace(moe, balance_loss=1e-3, z_loss=1e-3)).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    ids, losses = ids_of(48, batch=2), []
    for _ in range(10):
        logits = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        losses.append(float(loss.detach()))
        auxiliary = [layer.auxiliary_loss() for layer in layers_of(model)]
        (loss + sum(a for a in auxiliary if a is not None)).backward()
        optimizer.step()
        optimizer.zero_grad()
        for layer in layers_of(model):
            layer.update_balance(layer.take_counts(), 1e-2)
    assert losses[-1] < 0.8 * losses[0]
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("moe", FORMS.values(), ids=FORMS)
def test_autocast_computes_products_in_bfloat16_and_gates_in_float32(moe: MoEConfig) -> None:
    model = model_of(moe).train()
    ids = ids_of(30)
    wanted = model(ids).detach()
    loads = [layer.take_counts() for layer in layers_of(model)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(ids)
    found.float().square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    # The first layer's tokens go where they went, but for what bfloat16 attention moves.
    moved = (layers_of(model)[0].take_counts() - loads[0]).abs().sum()
    assert int(moved) <= 6
    error = (found.detach().float() - wanted).norm() / wanted.norm()
    assert float(error) < 0.2


def test_warm_start_balances_a_sample() -> None:
    moe = MoEConfig(form="full", groups=(replace(GROUPS[0], sizes=(4,) * 8),))
    layer = layers_of(model_of(moe))[0]
    x = torch.randn(3_000, 128) + torch.linspace(-1, 1, 128)
    layer.gate.bias.zero_()
    layer.gate(x, routing_of(3_000))
    before = layer.take_counts().float()
    layer.gate.warm_start(x)
    layer.gate(x, routing_of(3_000))
    after = layer.take_counts().float()
    assert after.max() / after.mean() < min(1.4, float(before.max() / before.mean()))


def test_warm_start_balances_domains_each_by_its_own_tokens() -> None:
    layer = layers_of(model_of(replace(FULL, n_active_experts=1)))[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4_000, 128, generator=generator)
    domains = torch.arange(4_000) % 2 + 1
    layer.gate.warm_start(x, domains)
    layer.gate(x, Routing(torch.zeros(4_000, dtype=torch.int64), domains))
    load = layer.take_load()[1:3].float()
    for row, own in ((load[0], slice(0, 5)), (load[1], [0, 1, 5, 6, 7])):
        assert row[own].max() < 1.5 * row[own].mean()
        assert row[own].min() > 0.5 * row[own].mean()


@torch.no_grad()
def test_all_slices_at_fresh_scales_are_the_dense_layer() -> None:
    layer = layers_of(model_of(replace(SLICES, n_active_experts=8)))[0]
    assert isinstance(layer, NeuronMixture)
    assert layer.scale is not None
    layer.scale.zero_()
    x = torch.randn(1, 20, 128)
    gate_up, down = layer.experts.gate_up, layer.experts.down
    gate = torch.cat([part.chunk(2)[0] for part in gate_up.split(72)])
    up = torch.cat([part.chunk(2)[1] for part in gate_up.split(72)])
    assert layer.dense is not None
    wanted = layer.dense(x) + (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down
    torch.testing.assert_close(layer(x, routing_of(20)), wanted, atol=1e-5, rtol=1e-5)
