"""Quantised tensors as codes and scales are the same numbers, to the last bit."""

import pytest
import torch

from deepseek.core.errors import CheckpointError
from deepseek.weights.blocks import FORMATS
from deepseek.weights.codes import DECODERS, decode_rows

BY_NAME = {form.name: form for form in FORMATS.values()}
N_ROWS, N_COLUMNS = 6, 512


def random_rows(name: str, seed: int) -> torch.Tensor:
    """Random bytes whose half-precision scales are ordinary numbers."""
    form = BY_NAME[name]
    generator = torch.Generator().manual_seed(seed)
    n_blocks = N_ROWS * N_COLUMNS // form.n_weights
    raw = torch.randint(256, (n_blocks, form.n_bytes), generator=generator, dtype=torch.uint8)
    places = {"Q4_0": (0,), "Q4_1": (0, 2), "Q8_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,)}
    for place in places[name]:
        scale = torch.randn(n_blocks, 1, generator=generator).half()
        raw[:, place : place + 2] = scale.view(torch.uint8)
    return raw


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("seed", range(3))
def test_codes_are_the_dequantised_numbers(name: str, seed: int) -> None:
    form = BY_NAME[name]
    raw = random_rows(name, seed)
    wanted = form.decode(raw).view(N_ROWS, N_COLUMNS)
    rows = decode_rows(raw.flatten(), name, form.n_bytes, N_COLUMNS)
    assert rows.bits == int(name[1])
    assert rows.group == (16 if name == "Q6_K" else 32)
    assert rows.codes.dtype is torch.uint8
    assert int(rows.codes.max()) <= (15 if rows.bits == 4 else 255)
    # Q4_0 is scale * (code - 8) in one form and scale * code - 8 * scale in the other.
    tolerance = 0.0 if name != "Q4_0" else 1e-6
    torch.testing.assert_close(rows.numbers(), wanted, atol=tolerance, rtol=tolerance)
    order = torch.tensor([3, 0, 5])
    torch.testing.assert_close(rows.rows(order).numbers(), rows.numbers()[order], atol=0, rtol=0)


@pytest.mark.parametrize("name", DECODERS)
def test_scales_that_are_no_numbers_are_refused(name: str) -> None:
    form = BY_NAME[name]
    raw = random_rows(name, 0)
    place = 208 if name == "Q6_K" else 0
    raw[1, place : place + 2] = torch.tensor([float("nan")]).half().view(torch.uint8)
    with pytest.raises(CheckpointError, match="not numbers"):
        decode_rows(raw.flatten(), name, form.n_bytes, N_COLUMNS)
