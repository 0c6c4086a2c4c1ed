"""Figures of loads by hand, loads of a model, the picture."""

from xml.etree import ElementTree

import pytest
import torch
from moe_models import FULL, ids_of, model_of

from deepseek.core.errors import ConfigError
from deepseek.model.moe.load import ExpertLoad, figures, measure_load
from tiny_checkpoint import tiny_config, tiny_model


def test_figures_of_known_loads() -> None:
    even = figures(torch.full((16,), 10))
    assert (even.u_entropy, even.u_busy, even.cv) == pytest.approx((1, 1, 0))
    assert (even.max_vio, even.dead) == pytest.approx((0, 0))
    half = figures(torch.tensor([5] * 8 + [0] * 8))
    assert (half.u_entropy, half.u_busy, half.cv) == pytest.approx((0.5, 0.5, 1))
    assert (half.max_vio, half.dead) == pytest.approx((1, 0.5))
    # Zipf's law over 16 experts; u_entropy 0.66, u_busy 0.21 to two places.
    zipf = figures(1 / torch.arange(1.0, 17))
    assert zipf.u_busy == pytest.approx(3.3807 / 16, abs=1e-4)
    assert zipf.u_entropy == pytest.approx(0.66, abs=0.005)
    assert zipf.cv == pytest.approx(1.10, abs=0.01)
    none = figures(torch.zeros(4))
    assert (none.dead, none.u_busy) == (1, 0)


def test_loads_by_layer_domain_and_expert() -> None:
    model = model_of(FULL)
    model(ids_of(9))  # forgotten
    seen: list[int] = []
    load = measure_load(
        model,
        [(ids_of(20, batch=2).tolist(), 1), (ids_of(30).tolist(), None)],
        seen.append,
    )
    assert seen == [1, 2]
    assert load.counts.sum(2).tolist() == [[0, 80, 0, 60]] * 2
    report = load.report()
    assert report["tokens_times_slots"] == 140
    assert set(report["domains"]) == {"text", "unknown"}
    assert sum(report["domains"]["text"]["share_by_group"].values()) == pytest.approx(1)
    assert report["layers"][1]["load"] == load.counts[1].sum(0).tolist()
    assert report["worst"]["u_busy"] <= report["mean"]["u_busy"]
    assert report["worst"]["max_vio"] >= report["mean"]["max_vio"]


def test_the_picture_has_a_cell_for_each_expert_of_each_layer() -> None:
    load = ExpertLoad(FULL, n_layers=3)
    load.add(torch.randint(50, load.counts.shape))
    root = ElementTree.fromstring(load.heat_map())
    cells = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if "fill" in r.attrib]
    assert len(cells) == 3 * 8
    titles = [float(r[0].text or "") for r in cells]
    assert sum(titles[:8]) == pytest.approx(8, abs=0.05)


def test_a_dense_model_has_no_experts() -> None:
    with pytest.raises(ConfigError, match="the model has no experts"):
        measure_load(tiny_model(tiny_config()), [])
