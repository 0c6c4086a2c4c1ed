"""Writes safetensors files tensor by tensor, so that no more than one needs to be in memory."""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from deepseek.core.errors import CheckpointError
from deepseek.weights.cache import replaced, require_free
from deepseek.weights.safetensors import DTYPES

NAMES = {dtype: name for name, dtype in DTYPES.items()}

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Number format and shape of each tensor, in the order in which they are written."""


def write_tensor_file(path: Path, layout: Layout, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a file that appears whole or not at all.

    Args:
        path: The file.
        layout: What will come.
        tensors: By name, in the order of the layout; converted to its number formats.

    Raises:
        CheckpointError: The file cannot be written.
        ValueError: What came is not what was announced.
    """
    header = _header(layout)
    n_bytes = sum(math.prod(shape) * dtype.itemsize for dtype, shape in layout.values())
    try:
        require_free(path.parent, n_bytes)
        with replaced(path) as file:
            file.write(struct.pack("<Q", len(header)) + header)
            expected = iter(layout.items())
            for name, tensor in tensors:
                wanted, (dtype, shape) = next(expected, ("nothing", (torch.uint8, ())))
                if name != wanted or tuple(tensor.shape) != shape:
                    raise ValueError(f"{name} {tuple(tensor.shape)} in place of {wanted} {shape}")
                plain = tensor.detach().to("cpu", dtype).contiguous()
                file.write(plain.flatten().view(torch.uint8).numpy().data)
            if left := next(expected, None):
                raise ValueError(f"{left[0]} never came")
        path.chmod(0o644)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror}", "free some space or choose another folder"
        ) from None


def _header(layout: Layout) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (dtype, shape) in layout.items():
        end = start + math.prod(shape) * dtype.itemsize
        table[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(table).encode()
    return text + b" " * (-len(text) % 8)
