"""Plans beside what is really allocated: weights, packs, pages, states, activations."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepseek.core.errors import ConfigError
from deepseek.model.activations import activation_bytes
from deepseek.model.checkpoint import load_model, quantised_bytes, save_model
from deepseek.model.config import ModelConfig, load_preset
from deepseek.model.device_layout import Devices, Layout, fullest_share, serving_layouts, stages
from deepseek.model.device_plan import DevicePlanner, Workload, format_rows
from deepseek.model.memory import MemoryCache
from deepseek.model.moe.config import ExpertGroup, MoEConfig
from deepseek.model.packed import PackedCache
from deepseek.model.pages import PagePool
from deepseek.model.transformer import Transformer
from deepseek.model.weight_table import summed, weight_table
from deepseek.ops import native
from deepseek.ops.native import NativeMatrix
from deepseek.train.optimiser import Optimiser, OptimiserSettings
from deepseek.train.subset import Mask
from deepseek.weights.source import open_weights
from tiny_checkpoint import ROOT, tiny_config

GIB = 1 << 30
FULL = MoEConfig(
    form="full",
    shared=64,
    groups=(ExpertGroup(name="general", sizes=(64,) * 6 + (96, 160)),),
    budget=1.5,
)
SLICES = MoEConfig(form="slices", shared=96, groups=(ExpertGroup(name="general", sizes=(36,) * 8),))
SHAPES = {
    "dense": tiny_config(),
    "untied": replace(tiny_config(), tied_embeddings=False),
    "low rank": load_preset(ROOT / "configs/r1-tiny-moe.toml"),
    "full": replace(tiny_config(), moe=FULL),
    "slices": replace(tiny_config(), moe=SLICES),
}
BIG = load_preset(ROOT / "configs/r1-67b.toml")


def made(config: ModelConfig) -> Transformer:
    model = Transformer(config)
    model.initialise()
    return model


def weights_of(model: Transformer) -> int:
    tensors = [*model.parameters(), *(b for n, b in model.named_buffers() if "load" not in n)]
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("name", SHAPES)
def test_weights_equal_those_of_a_real_model(name: str, tmp_path: Path) -> None:
    config = SHAPES[name]
    model = made(config)
    table = weight_table(config, "float32")
    assert summed(table).total == weights_of(model)
    assert sum(piece.n_parameters for piece in table) == config.n_parameters
    save_model(model, tmp_path)
    loaded = load_model(open_weights(tmp_path), dtype=torch.bfloat16, pack=False)
    assert summed(weight_table(config, "bfloat16")).total == pytest.approx(
        weights_of(loaded), rel=1e-3
    )


@pytest.mark.skipif(not native.is_available(), reason="the kernels were not built")
@pytest.mark.parametrize("weight_format", ["int8", "int4"])
def test_quantised_weights_equal_the_packs_of_the_kernels(weight_format: str) -> None:
    config = tiny_config()
    d_q, d_kv = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    shapes = [(d_q, config.d_model), (config.d_model, d_q)]
    shapes += [(d_kv, config.d_model)] * 2 + [(config.d_ff, config.d_model)] * 2
    shapes.append((config.d_model, config.d_ff))
    bits = 8 if weight_format == "int8" else 4
    packs = [NativeMatrix(bits, *shape) for shape in shapes]  # type: ignore[arg-type]
    head = NativeMatrix(8, config.vocab_size, config.d_model)
    real = config.n_layers * sum(pack.n_bytes for pack in packs) + head.n_bytes
    stored = summed(weight_table(config, weight_format))
    assert stored.codes + stored.scales == real


@pytest.mark.weights
def test_the_plan_of_a_checkpoint_in_four_bits_is_what_loading_it_takes(smollm2_path: Path) -> None:
    source = open_weights(smollm2_path)
    stored = summed(weight_table(ModelConfig.from_checkpoint(source.config()), "int4"))
    assert stored.codes + stored.scales == pytest.approx(quantised_bytes(source), rel=0.01)


@pytest.mark.parametrize("kv_format", ["bfloat16", "int8", "int4"])
def test_cache_pages_equal_real_pools(kv_format: str) -> None:
    config = tiny_config()
    work = Workload(context=8_192, batch=3, kv_format=kv_format, has_nodes=True)
    planner = DevicePlanner(config, "bfloat16", work)
    plan = planner.memory(Layout(), GIB)
    pages = planner._needs(planner._cut(Layout(), range(config.n_layers))).pages(8_192, kv_format)
    pools = {"keys and values": PagePool(config, most=3 * pages.hot)}
    if pages.cold:
        bits = 8 if kv_format == "int8" else 4
        pools[f"keys and values in {kv_format}"] = PagePool(config, bits=bits, most=3 * pages.cold)
    n_nodes = 3 * 8_192 // 64 // 16 + 32
    pools["memory nodes"] = PagePool(config, has_values=False, most=n_nodes)
    for name, pool in pools.items():
        assert plan.of(name) == pool.n_bytes, name


@torch.inference_mode()
def test_a_learned_memory_equals_a_real_cache() -> None:
    config = replace(tiny_config(), attention="hierarchical")
    model = made(config).bfloat16()
    cache = MemoryCache(config, torch.device("cpu"))
    model(torch.zeros(1, 600, dtype=torch.int64), cache)
    layers = cache._layers
    nodes = [t for layer in layers if layer.bank for t in (layer.bank.keys, layer.bank.values)]
    nodes += [layer.still for layer in layers if layer.still is not None]
    work = Workload(context=600)
    plan = DevicePlanner(config, "bfloat16", work).memory(Layout(), GIB)
    kept = sum(t.nbytes for layer in layers for t in (layer.keys, layer.values) if t is not None)
    assert plan.of("keys and values") == kept
    assert plan.of("memory nodes") == sum(t.nbytes for t in nodes)


@pytest.mark.parametrize(
    ("name", "kind"), [*itertools.product(("dense", "low rank", "full"), ("adamw", "muon"))]
)
def test_training_equals_a_real_optimiser(name: str, kind: str) -> None:
    config = SHAPES[name]
    model = made(config).train()
    optimiser = Optimiser(model, Mask.everything(model), OptimiserSettings(kind=kind))  # type: ignore[arg-type]
    model(torch.arange(64)[None]).square().mean().backward()
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    optimiser.take_gradients()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    optimiser.step(1.0)
    states = sum(piece.tensor.nbytes for piece in optimiser.pieces().values())
    work = Workload(context=64, training=True, optimiser=kind)  # type: ignore[arg-type]
    plan = DevicePlanner(config, "float32", work).memory(Layout(), GIB)
    assert plan.of("weights") == sum(p.nbytes for p in model.parameters())
    assert plan.of("gradients") == gradients
    assert plan.of(f"states of {kind}") == pytest.approx(states, rel=0.02)


def saved_bytes(config: ModelConfig, n_tokens: int) -> int:
    """What a real pass keeps for its gradients, each storage once, without parameters."""
    model = made(config).train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    lengths = [n_tokens // 2, n_tokens - n_tokens // 2]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden_states(torch.arange(n_tokens)[None] % 500, PackedCache(lengths))
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("name", SHAPES)
def test_activations_are_near_what_a_real_pass_keeps(name: str) -> None:
    config = SHAPES[name]
    planned = activation_bytes(config, 512, width=4)
    assert planned == pytest.approx(saved_bytes(config, 512), rel=0.05)


def test_layouts_lose_and_invent_nothing() -> None:
    """Over all devices of a layout, matrices are there once, and what is whole on each."""
    whole = DevicePlanner(BIG, "bfloat16", Workload(context=1_024, headroom=0.0))
    one = whole.memory(Layout(), GIB)
    for layout in serving_layouts(BIG, 8):
        plan = whole.memory(layout, GIB)
        n_copy = layout.tensor * layout.pipeline
        for name in ("experts", "attention"):
            assert plan.of(name) * n_copy >= one.of(name) * 0.999, (layout, name)
            # Ends of stages and unequal experts leave some devices with less than others.
            assert plan.of(name) * n_copy <= one.of(name) * 1.2, (layout, name)
        assert plan.of("keys and values") * n_copy >= one.of("keys and values")
    assert [list(run) for run in stages(5, 2)] == [[0, 1], [2, 3, 4]]
    assert fullest_share([6, 4, 3, 3], 2) == 0.5625
    assert fullest_share([1] * 16, 8) == 1 / 8


def test_small_layouts_come_first_and_the_smallest_number_of_devices_is_found() -> None:
    work = Workload(context=8_192)
    planner = DevicePlanner(BIG, "bfloat16", work)
    plan = planner.plan(Devices(8, 80 * 10**9))
    assert plan.chosen.fits
    assert plan.chosen.layout == Layout(tensor=2, expert=2, data=4)  # 134 GB of weights
    assert [str(tried.layout) for tried in plan.passed_over] == ["data parallel 8"]
    assert plan.smallest is not None
    assert plan.smallest.layout.n_devices == 2
    small = planner.plan(Devices(2, 24 * 10**9))
    assert not small.chosen.fits
    assert small.chosen.memory.left < 0
    assert small.smallest is not None
    n = small.smallest.layout.n_devices
    assert n * 24e9 > BIG.n_parameters * 2
    fewer = planner.plan(Devices(n - 1, 24 * 10**9))
    assert not fewer.chosen.fits
    assert planner.plan(Devices(1, 1 << 20)).smallest is None


def test_training_takes_sixteen_bytes_a_weight_and_is_sharded_where_it_must_be() -> None:
    work = Workload(context=4_096, training=True, recompute=True, headroom=0.0)
    planner = DevicePlanner(BIG, "bfloat16", work)
    plan = planner.plan(Devices(64, 80 * 10**9))
    assert plan.chosen.fits
    assert plan.chosen.layout.is_sharded
    state = sum(plan.chosen.memory.of(name) for name in ("weights", "gradients", "states of adamw"))
    assert state == pytest.approx(16 * BIG.n_parameters / 64, rel=0.05)
    assert not planner.plan(Devices(8, 80 * 10**9)).chosen.fits  # 1.07 TB of state
    alone = DevicePlanner(tiny_config(), "float32", work).plan(Devices(2, GIB))
    assert alone.chosen.layout == Layout(data=2)
    assert alone.chosen.memory.of("gathered weights") == 0


def test_formats_and_how_much_smaller_they_are() -> None:
    rows = {row.name: row for row in format_rows(BIG, 131_072, 1)}
    n = BIG.n_parameters
    assert rows["float32"].stored.total == pytest.approx(4 * n, rel=1e-4)
    assert rows["int8"].stored.total == pytest.approx(n * 9 / 8, rel=0.01)
    assert rows["int4"].stored.total == pytest.approx(n * 5 / 8, rel=0.02)
    assert rows["float32"].cache == 2 * rows["bfloat16"].cache
    assert rows["int4"].cache < rows["int8"].cache < rows["bfloat16"].cache


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"context": 0}, "context is 0"),
        ({"batch": 0}, "batch 0"),
        ({"kv_format": "int2"}, "int2"),
        ({"headroom": 1.0}, "headroom"),
    ],
)
def test_workloads_that_make_no_sense(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Workload(**{"context": 64, **wrong})  # type: ignore[arg-type]


def test_devices_and_formats_that_are_none() -> None:
    assert Devices.parse("8x80GB") == Devices(8, 80 * 10**9)
    assert Devices.parse("24GiB") == Devices(1, 24 << 30)
    for text in ("0x80GB", "8x", "x80GB", "many", "8x80XB", "8x0GB"):
        with pytest.raises(ConfigError):
            Devices.parse(text)
    with pytest.raises(ConfigError, match="int2"):
        weight_table(tiny_config(), "int2")
    with pytest.raises(ConfigError, match="training computes"):
        DevicePlanner(tiny_config(), "int4", Workload(context=64, training=True))
