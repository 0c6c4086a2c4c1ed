"""Bytes of a model's weights in each number format, counted on tensors that have shapes only.

Quantised matrices are counted as the native library packs them: 4 bits with a scale and a zero for
each 32 weights, 8 bits with a scale for each 16, all in half precision, and a float32 factor for
each row. With 4 bits, embedding and head have 8, as in checkpoints that others make.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from deepseek.core.config import suggest
from deepseek.core.errors import ConfigError
from deepseek.model.config import ModelConfig
from deepseek.model.transformer import Transformer

WeightFormat = Literal["float32", "bfloat16", "int8", "int4"]
FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)
Kind = Literal["embedding", "head", "attention", "dense", "experts", "replicated"]
"""`dense`: feed-forward layers that all tokens pass, or what a mixture has beside its experts.
`replicated`: norms, gates and biases, which every device has whole."""
BLOCK, TILE = 32, 16
BLOCK_BYTES = {4: (BLOCK // 2, 4), 8: (BLOCK, 4)}
"""Of the codes of 32 weights, and of their scales and zeros (formats.h)."""
JOINED = {"qkv.weight": 3, "feed_forward.gate_up.weight": 2, "dense.gate_up.weight": 2}
"""Tensors that are packed as so many matrices."""
PADDING = 8_192
"""Behind each packed matrix: kernels ask for weights ahead."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes of some weights."""

    codes: int = 0
    """Of the weights themselves, whatever the format."""
    scales: int = 0
    """Of scales, zeros and factors of quantised ones."""
    wide: int = 0
    """Of what stays in float32: norms, gates, biases."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.codes + self.scales + self.wide

    def __add__(self, other: "Stored") -> "Stored":
        return Stored(self.codes + other.codes, self.scales + other.scales, self.wide + other.wide)

    def times(self, share: float) -> "Stored":
        """A share of them."""
        return Stored(*(round(share * n) for n in (self.codes, self.scales, self.wide)))


@dataclass(frozen=True, slots=True)
class Piece:
    """All tensors of one kind in one layer."""

    layer: int
    """-1: before the layers; the number of layers: behind them."""
    kind: Kind
    n_parameters: int
    stored: Stored


def weight_table(config: ModelConfig, weight_format: str) -> tuple[Piece, ...]:
    """What a model's weights take, by layer and kind.

    Args:
        config: Of the model; its weights are not made.
        weight_format: Of matrices.

    Raises:
        ConfigError: There is no such format.
    """
    if weight_format not in FORMATS:
        raise ConfigError(
            f"there is no number format {weight_format!r} for weights",
            suggest(weight_format, FORMATS),
        )
    with torch.device("meta"):
        model = Transformer(config)
    sums: dict[tuple[int, Kind], tuple[int, Stored]] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("gate.load"):
            continue  # counts of a pass, no weights
        place = _place(name, config.n_layers)
        n, stored = sums.get(place, (0, Stored()))
        is_buffer = name.endswith(("gate.bias", "gate.null_bias"))
        n += 0 if is_buffer else tensor.numel()
        n_parts = next((n for end, n in JOINED.items() if name.endswith(end)), 1)
        sums[place] = (n, stored + stored_bytes(tensor, place[1], weight_format, n_parts))
    return tuple(Piece(*place, n, stored) for place, (n, stored) in sums.items())


def stored_bytes(tensor: Tensor, kind: Kind, weight_format: str, n_parts: int = 1) -> Stored:
    """What one tensor takes, which may be several matrices one below the other."""
    n = tensor.numel()
    if kind == "replicated" or tensor.dim() < 2:
        return Stored(wide=4 * n)
    n_out, n_in = tensor.shape
    if weight_format == "float32":
        return Stored(codes=4 * n)
    if weight_format == "bfloat16" or n_in % BLOCK:
        return Stored(codes=2 * n)
    bits = 8 if weight_format == "int8" or kind in ("embedding", "head") else 4
    codes, scales = BLOCK_BYTES[bits]
    n_rows = -(-n_out // TILE) * TILE
    n_blocks = n_rows * (n_in // BLOCK)
    beside = 4 * n_rows + PADDING * n_parts
    return Stored(codes=codes * n_blocks, scales=scales * n_blocks + beside)


def summed(pieces: Iterable[Piece]) -> Stored:
    """Of several together."""
    total = Stored()
    for piece in pieces:
        total = total + piece.stored
    return total


def _place(name: str, n_layers: int) -> tuple[int, Kind]:
    """Layer and kind of a tensor of the transformer."""
    if name.startswith("embedding."):
        return -1, "embedding"
    if name.startswith("head."):
        return n_layers, "head"
    head, _, own = name.partition(".")
    if head != "blocks":
        return n_layers, "replicated"
    layer, _, own = own.partition(".")
    return int(layer), _kind(own)


def _kind(name: str) -> Kind:
    """Of a tensor of a block, such as `feed_forward.experts.down`."""
    if name in ("attention.qkv.weight", "attention.output.weight"):
        return "attention"
    if name.startswith("feed_forward.experts."):
        return "experts"
    if name.startswith("feed_forward.") and name.endswith(("gate_up.weight", "down.weight")):
        return "dense"
    return "replicated"
