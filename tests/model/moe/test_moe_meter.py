"""A meter on a running model: totals, what was lately, gauges, off and on."""

import pytest
import torch
from moe_models import FULL, LOW_RANK, ids_of, layers_of, model_of

from deepseek.core.errors import ConfigError
from deepseek.model.moe.load import ExpertLoad
from deepseek.model.moe.meter import GAUGES, LoadMeter
from tiny_checkpoint import tiny_config, tiny_model


@torch.inference_mode()
def test_it_agrees_with_loads_and_takes_nothing_away() -> None:
    model = model_of(FULL)
    model(ids_of(50))  # before it was there
    meter = LoadMeter(model)
    model(ids_of(30))
    domains = torch.full((1, 40), 1)
    model(ids_of(40, seed=1), domains=domains)
    found = meter.read()
    loads = torch.stack([layer.take_load() for layer in layers_of(model)])
    assert meter.total[:, :, :-1].sum() == loads.sum() - 2 * 50 * 2
    assert found["tokens"] == 70
    assert set(found["total"]["domains"]) == {"text", "unknown"}
    load = ExpertLoad(FULL, 2)
    load.add(meter.total[:, :, :-1].long())
    report = load.report()
    for name in ("u_entropy", "u_busy", "max_vio", "cv"):
        assert found["total"]["mean"][name] == pytest.approx(report["mean"][name])
    assert found["total"]["mean"]["per_token"] == 2
    # Others may take counts away: it goes on from there.
    model(ids_of(20))
    assert meter.read()["tokens"] == 90


@torch.inference_mode()
def test_what_was_lately_forgets_and_memory_is_bounded() -> None:
    model = model_of(LOW_RANK)
    meter = LoadMeter(model, half_life=100)
    size = meter.total.numel() + meter.lately.numel()
    for seed in range(6):
        model(ids_of(100, seed=seed))
        meter.read()
    assert float(meter.total[0].sum()) == 2 * 600
    kept = sum(0.5**i for i in range(6))
    assert float(meter.lately[0].sum()) == pytest.approx(2 * 100 * kept)
    assert meter.total.numel() + meter.lately.numel() == size


@torch.inference_mode()
def test_gauges_name_layer_and_domain_and_counting_can_be_off() -> None:
    model = model_of(FULL)
    meter = LoadMeter(model)
    assert list(meter.gauges()) == []
    meter.stop()
    model(ids_of(30))
    assert not meter.is_counting
    assert meter.read()["tokens"] == 0
    meter.start()
    model(ids_of(30))
    gauges = list(meter.gauges())
    assert {g.name for g in gauges} == {f"expert_{name}" for name in GAUGES}
    assert {(g.labels["layer"], g.labels["domain"]) for g in gauges} == {
        (layer, domain) for layer in "01" for domain in ("unknown", "all")
    }
    assert all(torch.isfinite(torch.tensor(g.value)) for g in gauges)


def test_dead_experts_and_entropy_show() -> None:
    model = model_of(FULL)
    meter = LoadMeter(model)
    for layer in layers_of(model):
        layer.gate.load[-1] += torch.tensor([100, 100, 0, 0, 0, 0, 0, 0, 200])
    mean = meter.read()["total"]["mean"]
    assert mean["dead"] == 6
    assert mean["entropy"] == pytest.approx(0.6931, abs=1e-4)
    assert mean["max_vio"] == pytest.approx(3)
    assert mean["per_token"] == pytest.approx(1)


def test_a_dense_model_has_nothing_to_measure() -> None:
    with pytest.raises(ConfigError, match="no experts"):
        LoadMeter(tiny_model(tiny_config()))
