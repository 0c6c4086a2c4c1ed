"""Quantised tensors as whole numbers with scales, for kernels that multiply by those.

GGUF's 4-bit formats are all `scale * code + zero` over groups of 32; Q8_0 is
`scale * (code - 128)` over groups of 32 and Q6_K `scale * (code - 32)` over groups of 16. Only the
bits are put in order here, nothing is rounded.
"""

from collections.abc import Callable

import torch
from jaxtyping import UInt8
from torch import Tensor

from deepseek.core.codes import Bits, Codes
from deepseek.core.errors import CheckpointError
from deepseek.weights.blocks import half, k_scales

Parts = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Codes [blocks, n], scales and zeros [blocks, groups], and their units [blocks, 2]."""


def _nibbles(packed: Tensor) -> Tensor:
    return torch.cat((packed & 15, packed >> 4), -1)


def _q4_0(block: Tensor) -> Parts:
    scale = half(block, 0)
    return _nibbles(block[:, 2:]), scale, scale * -8, None


def _q4_1(block: Tensor) -> Parts:
    return _nibbles(block[:, 4:]), half(block, 0), half(block, 2), None


def _q8_0(block: Tensor) -> Parts:
    return block[:, 2:] ^ 128, half(block, 0), None, None


def _q4_k(block: Tensor) -> Parts:
    scales, minima = k_scales(block[:, 4:16])
    runs = block[:, 16:].view(-1, 4, 32)
    codes = torch.stack((runs & 15, runs >> 4), 2).view(-1, 256)
    units = torch.cat((half(block, 0), half(block, 2) * -1), 1)
    return codes, scales.float(), minima.float(), units


def _q6_k(block: Tensor) -> Parts:
    low = block[:, :128].view(-1, 2, 64)
    high = block[:, 128:192].view(-1, 2, 32)
    quarters = (
        (low[..., :32] & 15) | ((high & 3) << 4),
        (low[..., 32:] & 15) | (((high >> 2) & 3) << 4),
        (low[..., :32] >> 4) | (((high >> 4) & 3) << 4),
        (low[..., 32:] >> 4) | ((high >> 6) << 4),
    )
    codes = torch.stack(quarters, 2).view(-1, 256)
    scales = block[:, 192:208].contiguous().view(torch.int8).float()
    unit = half(block, 208)
    return codes, scales, None, torch.cat((unit, torch.zeros_like(unit)), 1)


DECODERS: dict[str, tuple[Bits, Callable[[Tensor], Parts]]] = {
    "Q4_0": (4, _q4_0),
    "Q4_1": (4, _q4_1),
    "Q4_K": (4, _q4_k),
    "Q8_0": (8, _q8_0),
    "Q6_K": (6, _q6_k),
}
"""The formats that kernels can take as they are."""


def decode_rows(raw: UInt8[Tensor, " B"], name: str, n_bytes: int, n_columns: int) -> Codes:
    """Codes of whole rows.

    Args:
        raw: The bytes of the rows, one behind the other.
        name: The format, one of `DECODERS`.
        n_bytes: Bytes of a block of that format.
        n_columns: Weights of a row.

    Raises:
        CheckpointError: A scale is infinite or not a number.
    """
    bits, decoder = DECODERS[name]
    codes, scales, zeros, units = decoder(raw.view(-1, n_bytes))
    n_rows = codes.numel() // n_columns
    for numbers in (scales, zeros, units):
        if numbers is not None and not torch.isfinite(numbers.sum()):
            raise CheckpointError(
                "a tensor holds scales that are infinite or not numbers",
                "the file is damaged: fetch it again",
            )
    return Codes(
        bits,
        codes.view(n_rows, n_columns),
        scales.reshape(n_rows, -1),
        None if zeros is None else zeros.reshape(n_rows, -1),
        None if units is None else units.reshape(n_rows, -1, 2),
    )
