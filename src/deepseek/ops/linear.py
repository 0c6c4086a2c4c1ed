"""Matrix products with dense or packed weights: the one seam for faster kernels.

On a CPU, oneDNN multiplies faster, most of all at few rows, with a weight that was reordered
once into its blocked layout. A packed weight replaces the plain one: both together would
double the memory.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from deepseek.ops.native import DTYPES, NativeMatrix

# Rows that oneDNN plans the layout for: a typical prefill chunk. The layout serves one row too.
ROWS_HINT = 512


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """A weight in oneDNN's blocked layout; the same values, another order."""

    data: Tensor
    shape: tuple[int, int]
    dtype: torch.dtype

    def unpack(self) -> Float[Tensor, "out in"]:
        """The plain row-major weight, bit for bit."""
        return self.data.to_dense(self.dtype)

    @property
    def n_bytes(self) -> int:
        """Bytes of the values, without padding."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedWeight:
    """Quantised matrices, one below the other, for the native kernels."""

    parts: tuple[NativeMatrix, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the whole."""
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def n_bytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(part.n_bytes for part in self.parts)

    def unpack(self) -> Float[Tensor, "out in"]:
        """The weights as they are used, in float32."""
        return torch.cat([part.unpack() for part in self.parts])


def quantised_linear(
    x: Float[Tensor, "*rows in"],
    weight: QuantisedWeight,
    bias: Float[Tensor, " out"] | None = None,
) -> Float[Tensor, "*rows out"]:
    """`x @ weight.T + bias` with activations rounded to 8 bits in groups of 32."""
    n_out, n_in = weight.shape
    rows = x.reshape(-1, n_in)
    if rows.dtype not in DTYPES:
        rows = rows.float()
    rows = rows.contiguous()
    out = torch.empty(rows.shape[0], n_out, dtype=rows.dtype)
    column = 0
    for part in weight.parts:
        own = None if bias is None else bias[column : column + part.shape[0]]
        part.multiply(rows, out, column, own)
        column += part.shape[0]
    return out.view(*x.shape[:-1], n_out).to(x.dtype)


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN has a blocked layout for this weight here."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.bfloat16, torch.float32)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and (weight.dtype is not torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def pack(weight: Float[Tensor, "out in"]) -> PackedWeight:
    """Reorder a weight for repeated products. The plain one may be dropped afterwards."""
    data = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS_HINT)
    return PackedWeight(data=data, shape=(weight.shape[0], weight.shape[1]), dtype=weight.dtype)


def linear(
    x: Float[Tensor, "*rows in"],
    weight: Tensor | PackedWeight | QuantisedWeight,
    bias: Float[Tensor, " out"] | None = None,
) -> Float[Tensor, "*rows out"]:
    """`x @ weight.T + bias`, in the dtype of `x`."""
    if isinstance(weight, QuantisedWeight):
        return quantised_linear(x, weight, bias)
    if isinstance(weight, PackedWeight):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight.data, bias, "none", [], "")
        return product
    return F.linear(x, weight, bias)
