"""Low-rank adapters on a model: which matrices they add to, and how rows of a pass get their own.

The model's weights are never touched: `y += scale * up (down x)` for the rows of a sequence that
has the adapter. This is the reference of the native library's `adapter.cpp`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deepseek.core.errors import CheckpointError
from deepseek.core.low_rank import LowRank
from deepseek.model.config import ModelConfig
from deepseek.ops.native_model import Matrix, Shape
from deepseek.weights.adapter import AdapterFile

MATRICES = {
    "self_attn.q_proj": Matrix.Q,
    "self_attn.k_proj": Matrix.K,
    "self_attn.v_proj": Matrix.V,
    "self_attn.o_proj": Matrix.O,
    "mlp.gate_proj": Matrix.GATE,
    "mlp.up_proj": Matrix.UP,
    "mlp.down_proj": Matrix.DOWN,
}
"""By Hugging Face's names."""

TILE = 16
"""Ranks are kept in multiples of it."""
Parts = Mapping[tuple[int, Matrix], LowRank]
"""By layer and matrix."""


def shape_of(config: ModelConfig) -> Shape:
    """What the sizes of a model's matrices depend on."""
    return Shape(
        n_layers=config.n_layers,
        d_model=config.d_model,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        d_head=config.d_head,
        d_ff=config.d_ff,
        epsilon=config.norm_eps,
    )


def fit(file: AdapterFile, config: ModelConfig) -> Parts:
    """What an adapter adds to a model of some shape.

    Raises:
        CheckpointError: It was made for another shape, or parts of it are missing.
    """
    shape = shape_of(config)
    parts: dict[tuple[int, Matrix], LowRank] = {}
    for module, part in file.parts.items():
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
        if match is None or match[2] not in MATRICES:
            raise _misfit(file, f"{module} is no linear layer of the model")
        layer, which = int(match[1]), MATRICES[match[2]]
        if layer >= config.n_layers:
            raise _misfit(file, f"it has a layer {layer}, the model {config.n_layers} layers")
        wanted, found = shape.of(which), (part.up.shape[0], part.down.shape[1])
        if found != wanted:
            raise _misfit(
                file,
                f"its {module} is {found[0]} x {found[1]}, the model's {wanted[0]} x {wanted[1]}",
            )
        parts[layer, which] = part
    if not file.is_partial:
        layers = range(config.n_layers) if file.layers is None else file.layers
        for which in sorted({which for _, which in parts}):
            missing = [layer for layer in layers if (layer, which) not in parts]
            if missing:
                raise _misfit(file, f"it has no {which.name} of layer {missing[0]}")
    return parts


def native_bytes(parts: Parts, n_rows: int) -> int:
    """Bytes that the native library takes for an adapter (adapter.cpp).

    Args:
        parts: What it adds.
        n_rows: Of a pass, the most: each has room for the products with `down`.
    """
    ranks = {place: -(-part.rank // TILE) * TILE for place, part in parts.items()}
    numbers = sum(
        ranks[place] * (part.down.shape[1] + part.up.shape[0]) for place, part in parts.items()
    )
    return 2 * numbers + 4 * n_rows * 3 * max(ranks.values())


def _misfit(file: AdapterFile, why: str) -> CheckpointError:
    return CheckpointError(
        f"{file.path} does not fit this model: {why}",
        f"it was trained on {file.base}: load it with that model, or fetch it again",
    )


class TorchAdapter:
    """An adapter's matrices in the number format and on the device of a model."""

    def __init__(
        self, parts: Parts, shape: Shape, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._shape = shape
        self._parts = {
            place: (part.down.to(device, dtype), (part.up * part.scale).to(device, dtype))
            for place, part in parts.items()
        }

    def add(self, layer: int, matrices: Sequence[Matrix], x: Tensor, y: Tensor) -> None:
        """Add in place to products with matrices of a layer, one below the other."""
        column = 0
        for which in matrices:
            n_out = self._shape.of(which)[0]
            if pair := self._parts.get((layer, which)):
                down, up = pair
                y[..., column : column + n_out] += (x @ down.T) @ up.T
            column += n_out


Runs = Sequence[tuple[TorchAdapter | None, int]]
"""Adapters of rows behind each other, or None, each with the number of its rows."""


@dataclass(frozen=True, slots=True)
class Additions:
    """What adapters add to the products of a layer in one pass."""

    runs: Runs
    layer: int = 0

    def of(self, layer: int) -> "Additions":
        """To another layer's products."""
        return Additions(self.runs, layer)

    def add(
        self, x: Float[Tensor, "B T I"], y: Float[Tensor, "B T O"], *matrices: Matrix
    ) -> Float[Tensor, "B T O"]:
        """Add to products.

        Args:
            x: Their input.
            y: What they gave; changed in place.
            matrices: By which x was multiplied, one below the other.
        """
        start = 0
        for adapter, n_rows in self.runs:
            rows = slice(start, start + n_rows)
            if adapter is not None:
                adapter.add(self.layer, matrices, x[:, rows], y[:, rows])
            start += n_rows
        assert start == x.shape[1]
        return y
