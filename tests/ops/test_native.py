"""The compiled kernels at every instruction set against float64, on fresh random inputs."""

import pytest
import torch

from deepseek.core.codes import Codes
from deepseek.core.errors import CheckpointError
from deepseek.ops import native
from deepseek.ops.linear import QuantisedWeight, linear
from deepseek.ops.native import NativeMatrix

SHAPES = ((16, 32, 1), (1, 64, 2), (37, 96, 3), (64, 576, 8), (130, 256, 17), (48, 1_536, 33))
"""Rows of weights, columns, rows of activations."""
KINDS = ((4, 32, False), (4, 32, True), (6, 16, True), (8, 32, False), (8, 16, False))
"""Bits, columns that share a scale, and whether scales have units."""


def random_codes(bits: int, group: int, has_units: bool, n_out: int, n_in: int, seed: int) -> Codes:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(1 << bits, (n_out, n_in), generator=generator, dtype=torch.uint8)
    shape = (n_out, n_in // group)
    if has_units:
        scales, zeros = (torch.randint(64, shape, generator=generator).float() for _ in range(2))
        units = torch.rand(n_out, n_in // 256, 2, generator=generator) * 4e-4 - 1e-4
        return Codes(bits, codes, scales, zeros if bits == 4 else None, units.half().float())
    scales = torch.rand(shape, generator=generator) * 0.02 - 0.005
    zeros = None if bits != 4 else torch.rand(shape, generator=generator) * -0.2
    return Codes(bits, codes, scales, zeros)


def columns(n_in: int, has_units: bool) -> int:
    """As many as are allowed."""
    return -(-n_in // 256) * 256 if has_units else n_in


def packed(codes: Codes) -> NativeMatrix:
    n_out, n_in = codes.codes.shape
    matrix = NativeMatrix(codes.bits, n_out, n_in, has_units=codes.units is not None)
    for first in range(0, n_out, 16):
        matrix.put(first, codes.rows(torch.arange(first, min(first + 16, n_out))))
    return matrix


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Activations as the kernels see them: 8 bits in groups of 32, in float64."""
    groups = x.float().view(x.shape[0], -1, 32)
    largest = groups.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, 127 / largest, torch.zeros_like(largest))
    codes = (groups * inverse).round()
    return (codes.double() * (largest / 127).double()).view(x.shape)


# Without kernels there is no level, and each test is skipped.
pytestmark = pytest.mark.usefixtures("level")


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unpacked_weights_are_the_packed_ones(
    kind: tuple[int, int, bool], shape: tuple[int, int, int]
) -> None:
    """Scales keep half precision's 11 bits, relative to the largest of their row.

    With units nothing is rounded.
    """
    codes = random_codes(*kind, shape[0], columns(shape[1], kind[2]), seed=sum(shape))
    wanted = codes.numbers()
    error = (packed(codes).unpack() - wanted).abs()
    if codes.units is not None:
        assert float(error.max()) <= 1e-6 * float(wanted.abs().max())
        return
    largest = codes.scales.abs().amax(1) * (1 << kind[0]) + 0.2
    assert (error <= largest[:, None] * 2**-11).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products(
    dtype: torch.dtype, kind: tuple[int, int, bool], shape: tuple[int, int, int]
) -> None:
    n_out, n_rows = shape[0], shape[2]
    n_in = columns(shape[1], kind[2])
    matrix = packed(random_codes(*kind, n_out, n_in, seed=n_out))
    generator = torch.Generator().manual_seed(n_in)
    x = torch.randn(n_rows, n_in, generator=generator).to(dtype)
    x[0, :32] = 0
    bias = torch.randn(n_out, generator=generator)
    got = linear(x, QuantisedWeight((matrix,)), bias)
    wanted = rounded(x) @ matrix.unpack().double().T + bias
    assert got.dtype is dtype
    bound = 1e-5 if dtype is torch.float32 else 2**-8
    assert (got.double() - wanted).abs().max() <= bound * wanted.abs().max()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_row_does_not_depend_on_its_company(kind: tuple[int, int, bool]) -> None:
    """To the last bit: alone, among others, with any number of threads."""
    weight = QuantisedWeight(
        (
            packed(random_codes(*kind, 100, 512, seed=1)),
            packed(random_codes(8, 16, False, 20, 512, 2)),
        )
    )
    x = torch.randn(23, 512, generator=torch.Generator().manual_seed(3))
    whole = linear(x, weight)
    for n_threads in (1, 2, 3):
        native.use_threads(n_threads)
        for first, last in ((0, 1), (5, 7), (20, 23), (0, 23), (2, 18)):
            assert torch.equal(linear(x[first:last], weight), whole[first:last])


def test_matrices_stand_side_by_side() -> None:
    """Projections of unequal kinds that read the same input."""
    parts = [
        packed(random_codes(*kind, n, 256, n))
        for kind, n in zip(KINDS, (32, 5, 40, 17, 3), strict=True)
    ]
    x = torch.randn(2, 3, 256)
    bias = torch.randn(97)
    got = linear(x, QuantisedWeight(tuple(parts)), bias)
    alone = torch.cat([linear(x, QuantisedWeight((part,))) for part in parts], -1) + bias
    assert got.shape == (2, 3, 97)
    torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)
    assert QuantisedWeight(tuple(parts)).shape == (97, 256)


def test_other_dtypes_and_no_rows() -> None:
    weight = QuantisedWeight((packed(random_codes(4, 32, False, 16, 64, 0)),))
    x = torch.randn(3, 64)
    half = linear(x.half(), weight)
    assert half.dtype is torch.float16
    torch.testing.assert_close(half.float(), linear(x.half().float(), weight), atol=1e-2, rtol=1e-2)
    assert linear(x[:0], weight).shape == (0, 16)


@pytest.mark.parametrize("n_in", [0, 16, 33, 48])
def test_columns_that_do_not_fit_are_refused(n_in: int) -> None:
    with pytest.raises(CheckpointError, match="multiples of 32"):
        NativeMatrix(4, 16, n_in)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_no_numbers_are_refused(value: float) -> None:
    codes = random_codes(4, 32, False, 16, 64, 0)
    codes.scales[3, 1] = value
    with pytest.raises(CheckpointError, match="no numbers"):
        packed(codes)


def test_codes_that_do_not_fit_are_refused() -> None:
    codes = random_codes(4, 32, False, 16, 64, 0)
    codes.codes[2, 2] = 16
    with pytest.raises(CheckpointError, match="do not fit"):
        packed(codes)
    codes = random_codes(6, 16, True, 16, 256, 0)
    codes.codes[2, 2] = 64
    with pytest.raises(CheckpointError, match="do not fit"):
        packed(codes)
    codes = random_codes(4, 32, True, 16, 256, 0)
    codes.scales[1, 1] = 256
    with pytest.raises(CheckpointError, match="do not fit"):
        packed(codes)
    with pytest.raises(CheckpointError, match="units of 256"):
        NativeMatrix(4, 16, 288, has_units=True)
    whole = random_codes(8, 16, False, 16, 64, 0)
    with pytest.raises(CheckpointError, match="does not fit"):
        NativeMatrix(8, 16, 64).put(8, whole)  # more rows than are left


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="no kernels for"):
        native.use_level("AVX-1024")
