"""Quantised matrices between those who read them and those who multiply by them."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float32, UInt8
from torch import Tensor

Bits = Literal[4, 6, 8]


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """Rows of a quantised matrix."""

    bits: Bits
    codes: UInt8[Tensor, "N K"]
    """One a byte: 0 to 15, or with 6 and 8 bits the signed number plus 32 and 128."""
    scales: Float32[Tensor, "N J"]
    zeros: Float32[Tensor, "N J"] | None
    """What is added, with 4 bits; the others' codes have zero in the middle."""

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    def numbers(self) -> Float32[Tensor, "N K"]:
        """The weights."""
        wide = self.codes.view(*self.scales.shape, self.group).float()
        if self.zeros is None:
            return ((wide - (1 << (self.bits - 1))) * self.scales.unsqueeze(-1)).flatten(1)
        return (wide * self.scales.unsqueeze(-1) + self.zeros.unsqueeze(-1)).flatten(1)

    def rows(self, order: Tensor) -> "Codes":
        """Some rows, in that order."""
        zeros = None if self.zeros is None else self.zeros[order]
        return Codes(self.bits, self.codes[order], self.scales[order], zeros)
