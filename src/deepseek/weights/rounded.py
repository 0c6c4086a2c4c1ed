"""Plain numbers rounded to 8 bits, for kernels that multiply by codes."""

import torch
from jaxtyping import Float
from torch import Tensor

from deepseek.core.codes import Codes

GROUP = 32
"""Columns that share a scale, as in Q8_0."""


def rounded_rows(rows: Float[Tensor, "N K"]) -> Codes:
    """Signed codes: the largest number of each group becomes 127. K is a multiple of 32."""
    groups = torch.unflatten(rows.float(), 1, (-1, GROUP))
    scales = groups.abs().amax(-1) / 127
    steps = torch.where(scales > 0, scales, 1.0).unsqueeze(-1)
    codes = (groups / steps).round().clamp(-127, 127) + 128
    return Codes(8, codes.to(torch.uint8).flatten(1), scales, None)
