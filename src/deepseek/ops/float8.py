"""Products in FP8 as DeepSeek-V3 trains with them (arXiv:2412.19437, 3.3), in emulation.

Both factors of each of a linear layer's three products are rounded to E4M3: activations and
gradients in tiles of 128 numbers along the axis that is summed over, weights in blocks of
128 x 128, each with a scale of its own. Sums are in float32. Scales are powers of two: then to
scale rounds nothing, rounded numbers are exact in bfloat16 as well, and tiles along another axis
cost little more. Nothing here is faster than plain products; it shows what FP8 does to a loss.

Axes: N rows, I and O widths in and out.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

TILE = 128
LARGEST = 448.0
"""The largest number of E4M3."""
ROWS, COLUMNS, BLOCKS = (1, TILE), (TILE, 1), (TILE, TILE)
"""Shapes of tiles: along rows, along columns, of weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Float8:
    """A matrix in E4M3 with a scale for each tile."""

    codes: Tensor
    scales: Tensor
    """Powers of two, one a tile."""
    tile: tuple[int, int]

    def values(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "N I"]:
        """The numbers that it stands for: exact in float32 and bfloat16."""
        (n_rows, n_columns), (height, width) = self.codes.shape, self.tile
        wide = self.scales.repeat_interleave(height, 0).repeat_interleave(width, 1)
        return (self.codes.float() * wide[:n_rows, :n_columns]).to(dtype)


def quantise(x: Float[Tensor, "N I"], tile: tuple[int, int]) -> Float8:
    """Round to E4M3, to the nearest, in tiles of a shape; those at the ends may be smaller."""
    (n_rows, n_columns), (height, width) = x.shape, tile
    padded = F.pad(x.float(), (0, -n_columns % width, 0, -n_rows % height))
    tiles = padded.reshape(padded.shape[0] // height, height, padded.shape[1] // width, width)
    scales = scale_of(tiles.abs().amax((1, 3)))
    scaled = (tiles / scales[:, None, :, None]).reshape(padded.shape)
    return Float8(scaled[:n_rows, :n_columns].to(torch.float8_e4m3fn), scales, tile)


def quantise_reference(x: Float[Tensor, "N I"], tile: tuple[int, int]) -> Float[Tensor, "N I"]:
    """The definition, number by number: the nearest of E4M3's values times the tile's scale."""
    out = torch.empty_like(x, dtype=torch.float32)
    magnitudes = torch.tensor(
        [m / 8 * 2.0**-6 for m in range(8)]
        + [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)][:-1]
    )  # 15 with mantissa 7 is no number
    for top in range(0, x.shape[0], tile[0]):
        for left in range(0, x.shape[1], tile[1]):
            part = slice(top, top + tile[0]), slice(left, left + tile[1])
            own = x[part].float()
            scale = 1.0
            largest = float(own.abs().max())
            while largest and largest > LARGEST * scale:
                scale *= 2
            while largest and largest <= LARGEST * scale / 2:
                scale /= 2
            gaps = (own.abs()[..., None] / scale - magnitudes).abs()
            # Of two that are as near the one whose last bit is 0: codes count up from an even one.
            ties = gaps == gaps.amin(-1, keepdim=True)
            even = ties & (torch.arange(len(magnitudes)) % 2 == 0)
            best = torch.where(even.any(-1, keepdim=True), even, ties).float().argmax(-1)
            out[part] = own.sign() * magnitudes[best] * scale
    return out


def scale_of(largest: Float[Tensor, "*tiles"]) -> Float[Tensor, "*tiles"]:
    """The least power of two with which numbers up to `largest` fit into E4M3; 1 for zeros.

    No number where `largest` is none or infinite: a cast would make it 448, and a loss not show it.
    """
    mantissas, exponents = torch.frexp(largest / LARGEST)
    exponents = exponents - (mantissas == 0.5).to(exponents.dtype)
    # As bits of a float32: exact, and never a subnormal number.
    scales = ((exponents.clamp(-126, 127) + 127) << 23).view(torch.float32)
    return scales.masked_fill(~largest.isfinite(), torch.nan)


def float8_linear(
    x: Float[Tensor, "*rows I"],
    weight: Float[Tensor, "O I"],
    bias: Float[Tensor, " O"] | None = None,
) -> Float[Tensor, "*rows O"]:
    """`x @ weight.T + bias`; factors are rounded to FP8, in both products of the gradients too.

    The result has the format that autocast asks for, or that of `x`.
    """
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    rows: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight, dtype)  # type: ignore[no-untyped-call]
    out = rows.view(*x.shape[:-1], weight.shape[0])
    return out if bias is None else out + bias.to(dtype)


class _Product(torch.autograd.Function):
    """Keeps its factors in FP8 for the backward products, a quarter of what float32 takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        a, w = quantise(x, ROWS), quantise(weight, BLOCKS)
        ctx.save_for_backward(a.codes, a.scales, w.codes, w.scales)
        ctx.formats = dtype, x.dtype, weight.dtype
        with torch.autocast(x.device.type, enabled=False):
            return a.values(dtype) @ w.values(dtype).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        a_codes, a_scales, w_codes, w_scales = ctx.saved_tensors
        dtype, x_dtype, weight_dtype = ctx.formats
        a, w = Float8(a_codes, a_scales, ROWS), Float8(w_codes, w_scales, BLOCKS)
        gradient = gradients[0]
        with torch.autocast(gradient.device.type, enabled=False):
            to_x = quantise(gradient, ROWS).values(dtype) @ w.values(dtype)
            # Tokens are summed over here: tiles lie along them.
            columns = quantise(gradient, COLUMNS).values().T
            to_weight = columns @ quantise(a.values(), COLUMNS).values()
        return to_x.to(x_dtype), to_weight.to(weight_dtype), None
