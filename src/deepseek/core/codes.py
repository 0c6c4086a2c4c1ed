"""Quantised matrices between those who read them and those who multiply by them."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float32, UInt8
from torch import Tensor

Bits = Literal[4, 6, 8]
SUPER = 256
"""Columns that share a unit."""


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """Rows of a quantised matrix."""

    bits: Bits
    codes: UInt8[Tensor, "N K"]
    """One a byte: 0 to 15, or with 6 and 8 bits the signed number plus 32 and 128."""
    scales: Float32[Tensor, "N J"]
    zeros: Float32[Tensor, "N J"] | None
    """What is added, with 4 bits; the others' codes have zero in the middle."""
    units: Float32[Tensor, "N S 2"] | None = None
    """Of scales and of zeros, which are whole numbers then, for each 256 columns."""

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    def numbers(self) -> Float32[Tensor, "N K"]:
        """The weights."""
        wide = self.codes.view(*self.scales.shape, self.group).float()
        wide = wide - (0 if self.bits == 4 else 1 << (self.bits - 1))
        weights: Tensor = wide * self._in_units(self.scales, 0).unsqueeze(-1)
        if self.zeros is not None:
            weights = weights + self._in_units(self.zeros, 1).unsqueeze(-1)
        return weights.flatten(1)

    def rows(self, order: Tensor) -> "Codes":
        """Some rows, in that order."""
        zeros = None if self.zeros is None else self.zeros[order]
        units = None if self.units is None else self.units[order]
        return Codes(self.bits, self.codes[order], self.scales[order], zeros, units)

    def _in_units(self, numbers: Tensor, which: int) -> Tensor:
        if self.units is None:
            return numbers
        return numbers * self.units[..., which].repeat_interleave(SUPER // self.group, 1)
