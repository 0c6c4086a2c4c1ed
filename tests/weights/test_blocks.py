import random
import struct

import numpy as np
import pytest
import torch
from block_reference import REFERENCE
from gguf_writer import BLOCKS
from tiny_model import SCALES, random_blocks

from deepseek.core.errors import CheckpointError
from deepseek.weights import blocks
from deepseek.weights.blocks import FORMATS, dequantise

FORMS = {form.name: form for form in FORMATS.values()}


def test_every_format_has_the_layout_of_the_specification() -> None:
    assert {k: (f.name, f.n_weights, f.n_bytes) for k, f in FORMATS.items()} == {
        kind: (name, n_weights, n_bytes) for name, (kind, n_weights, n_bytes) in BLOCKS.items()
    }


@pytest.mark.parametrize("name", BLOCKS)
def test_numbers_equal_the_scalar_reference(name: str) -> None:
    form = FORMS[name]
    n_blocks = 37 if form.n_weights > 1 else 515
    raw = random_blocks(name, n_blocks * form.n_weights, random.Random(name))
    expected = [
        value
        for start in range(0, len(raw), form.n_bytes)
        for value in REFERENCE[name](raw[start : start + form.n_bytes])
    ]
    shape = (n_blocks, form.n_weights)
    found = dequantise(_bytes(raw), form, shape, torch.float32)
    assert found.shape == shape
    # The reference computes in double precision; ours rounds to float32 after each product.
    torch.testing.assert_close(
        found.double().flatten(), torch.tensor(expected).double(), rtol=1e-6, atol=1e-5
    )


@pytest.mark.oracle
@pytest.mark.parametrize("name", BLOCKS)
def test_numbers_equal_those_of_the_gguf_package(name: str) -> None:
    import gguf

    form = FORMS[name]
    raw = random_blocks(name, 300 * max(form.n_weights, 32), random.Random(name))
    kind = gguf.GGMLQuantizationType[name]
    oracle = gguf.dequantize(np.frombuffer(raw, dtype=np.uint8), kind)
    found = dequantise(_bytes(raw), form, oracle.shape, torch.float32)
    assert np.array_equal(found.numpy(), oracle)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q8_0", "F16", "BF16"])
def test_numbers_that_the_gguf_package_quantised_come_back_nearly(name: str) -> None:
    import gguf

    weights = np.random.default_rng(5).normal(size=(64, 256)).astype(np.float32)
    packed = gguf.quantize(weights, gguf.GGMLQuantizationType[name])
    found = dequantise(_bytes(packed.tobytes()), FORMS[name], (64, 256), torch.float32)
    error = np.abs(found.numpy() - weights).mean()
    assert error < {"Q4_0": 0.15, "Q4_1": 0.15, "Q8_0": 0.01, "F16": 1e-3, "BF16": 5e-3}[name]


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_scale_that_is_no_finite_number_is_refused(name: str, bad: float) -> None:
    form = FORMS[name]
    raw = bytearray(random_blocks(name, 8 * form.n_weights, random.Random(1)))
    for offset in SCALES[name]:
        hostile = raw.copy()
        struct.pack_into("<e", hostile, 5 * form.n_bytes + offset, bad)
        with pytest.raises(CheckpointError, match="w holds numbers that are infinite"):
            dequantise(_bytes(hostile), form, (8, form.n_weights), torch.float32, "w")


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_a_weight_that_is_no_finite_number_is_refused(name: str) -> None:
    form = FORMS[name]
    raw = bytearray(random_blocks(name, 64, random.Random(1)))
    raw[-form.n_bytes :] = {"F32": b"\0\0\x80\x7f", "F16": b"\0\x7c", "BF16": b"\x80\x7f"}[name]
    with pytest.raises(CheckpointError):
        dequantise(_bytes(raw), form, (64,), torch.float32)


def test_a_weight_too_large_for_half_precision_is_refused_and_not_made_infinite() -> None:
    raw = _bytes(struct.pack("<4f", 1.0, 70_000.0, -2.0, 3.0))
    assert dequantise(raw, FORMS["F32"], (4,), torch.bfloat16)[1] > 69_000
    with pytest.raises(CheckpointError, match="too large for float16"):
        dequantise(raw, FORMS["F32"], (4,), torch.float16)


@pytest.mark.parametrize("name", BLOCKS)
def test_pieces_join_without_a_seam(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    form = FORMS[name]
    raw = _bytes(random_blocks(name, 23 * form.n_weights, random.Random(2)))
    whole = dequantise(raw, form, (23, form.n_weights), torch.float32)
    monkeypatch.setattr(blocks, "CHUNK_WEIGHTS", 5 * form.n_weights)
    assert torch.equal(dequantise(raw, form, (23, form.n_weights), torch.float32), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rounding_happens_once_at_the_end(dtype: torch.dtype) -> None:
    raw = _bytes(random_blocks("Q4_K", 256 * 9, random.Random(3)))
    exact = dequantise(raw, FORMS["Q4_K"], (9, 256), torch.float32)
    assert torch.equal(dequantise(raw, FORMS["Q4_K"], (9, 256), dtype), exact.to(dtype))


def _bytes(raw: bytes | bytearray) -> torch.Tensor:
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)
