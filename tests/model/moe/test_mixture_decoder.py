"""Mixtures packed for the kernels, and whole ones in the native decoder, against torch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moe_models import FORMS, FULL, LOW_RANK, ids_of, layers_of, model_of
from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.model.checkpoint import (
    for_kernels,
    hf_tensors,
    is_quantised,
    load_model,
    quantised_bytes,
    save_model,
)
from deepseek.model.decoder import NativeDecoder, can_decode, takes_shape
from deepseek.model.moe.config import MoEConfig
from deepseek.ops import native
from deepseek.weights.source import open_weights

pytestmark = pytest.mark.skipif(not native.is_fast(), reason="there are no kernels for this CPU")


@pytest.mark.parametrize("n_tokens", [1, 3, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("moe", FORMS.values(), ids=FORMS)
@torch.inference_mode()
def test_packed_layers_compute_what_plain_ones_do(
    moe: MoEConfig, dtype: torch.dtype, n_tokens: int
) -> None:
    plain, packed = (model_of(moe).to(dtype) for _ in range(2))
    for layer in (*layers_of(plain), *layers_of(packed)):
        layer.gate.float()
    for layer in layers_of(packed):
        layer.experts.pack()
        assert layer.experts.packed is not None
    assert not any("experts." in name for name, _ in packed.named_parameters())
    a, b = dict(hf_tensors(plain)), dict(hf_tensors(packed))
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)
    ids = ids_of(n_tokens)
    x = plain.embedding(ids)
    for one, other in zip(layers_of(plain), layers_of(packed), strict=True):
        routing = _routing(ids)
        wanted, got = one(x, routing), other(x, routing)
        exact = dtype is torch.float32
        torch.testing.assert_close(got, wanted, atol=1e-5 if exact else 4e-2, rtol=1e-4)
        assert float((got - wanted).norm() / wanted.norm()) < (1e-5 if exact else 1e-2)
        assert torch.equal(one.take_load(), other.take_load())


def _routing(ids: Tensor):  # type: ignore[no-untyped-def]
    from deepseek.model.moe.gate import Routing

    return Routing(ids.flatten())


@pytest.mark.parametrize(
    "moe",
    [LOW_RANK, replace(LOW_RANK, n_domains=1), replace(LOW_RANK, budget=1.0)],
    ids=["plain", "domains", "budget"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_the_native_decoder_computes_what_torch_does(
    tmp_path: Path, moe: MoEConfig, dtype: torch.dtype
) -> None:
    model = model_of(moe)
    for layer in layers_of(model):
        if layer.gate.null_bias is not None:
            layer.gate.null_bias.fill_(0.0)
    save_model(model, tmp_path)
    source = open_weights(tmp_path)
    assert not is_quantised(source)
    assert is_quantised(for_kernels(source))
    quantised = load_model(source, dtype=dtype, quantised=True)
    assert can_decode(quantised)
    ids = ids_of(120)
    wanted = quantised(ids)[0].float()
    loads = [layer.take_load() for layer in layers_of(quantised)]
    decoder = NativeDecoder(quantised)
    sequence = decoder.sequence()
    parts = [
        decoder.run([part], [sequence]) for part in (ids[0, :70].tolist(), ids[0, 70:].tolist())
    ]
    got = decoder.logits(torch.cat(parts))
    # In the decoder keys are in bfloat16 and the rest in float32; in depth single steps differ.
    apart = (got - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert float(apart.median()) < 0.05
    for layer, load in zip(layers_of(quantised), loads, strict=True):
        assert (layer.take_load() - load).abs().sum() <= 0.06 * load.sum()
    plain = model(ids)[0]
    assert float((got - plain).norm() / plain.norm()) < 0.1
    for layer in layers_of(model):
        layer.experts.down_b.zero_()
    without = model(ids)[0]
    assert float((got - without).norm() / without.norm()) > 0.2


@torch.inference_mode()
def test_a_change_of_the_gate_is_seen_by_the_next_pass(tmp_path: Path) -> None:
    save_model(model_of(LOW_RANK), tmp_path)
    model = load_model(open_weights(tmp_path), dtype=torch.float32, quantised=True)
    decoder = NativeDecoder(model)
    ids = ids_of(9)[0].tolist()
    before = decoder.run([ids], [decoder.sequence()])
    for layer in layers_of(model):
        layer.gate.bias[:2] = 10.0
        layer.take_load()
    after = decoder.run([ids], [decoder.sequence()])
    assert not torch.equal(before, after)
    assert layers_of(model)[0].take_counts().tolist() == [9, 9, 0, 0, 0, 0, 0, 0]


def test_what_it_takes(tmp_path: Path) -> None:
    model = model_of(LOW_RANK)
    assert takes_shape(model.config)
    assert not can_decode(model), "its matrices are plain numbers"
    assert not takes_shape(replace(model.config, moe=replace(LOW_RANK, routing="hash")))
    assert not takes_shape(replace(model.config, moe=FULL))
    save_model(model_of(FULL), tmp_path)
    with pytest.raises(ConfigError, match="form full are computed through torch") as caught:
        load_model(open_weights(tmp_path), dtype=torch.float32, quantised=True)
    assert "--dtype" in caught.value.hint
    save_model(model, tmp_path)
    source = for_kernels(open_weights(tmp_path))
    config = model.config
    dense = (
        config.n_layers * (3 * config.d_model * config.d_ff) + config.d_model * config.vocab_size
    )
    assert quantised_bytes(source) > dense
