"""Folders of safetensors files as a `WeightSource`, with a strict reading of every header.

Layout: https://github.com/huggingface/safetensors#format. The library's own reader is not
used: it gives no rows of a memory-mapped matrix and fewer reasons.
"""

import copy
import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deepseek.core.codes import Codes
from deepseek.core.errors import CheckpointError
from deepseek.weights.blocks import check_range
from deepseek.weights.gguf_header import check_overlaps, damaged
from deepseek.weights.mapping import MappedFile
from deepseek.weights.rounded import GROUP, rounded_rows
from deepseek.weights.source import largest_first

# Parsed JSON takes up to 24 times its text; the largest public models have headers of 10 MB.
MAX_HEADER_BYTES = 16 << 20
MAX_FILES = 1_000
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor is."""

    file: MappedFile
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    n_bytes: int

    def view(self) -> Tensor:
        """The tensor as it stands in the memory-mapped file. Must not be written to."""
        raw = self.file.bytes[self.start : self.start + self.n_bytes]
        if self.start % self.dtype.itemsize:
            raw = raw.clone()  # unaligned: legal, and cannot be viewed in place
        if self.dtype is torch.bool:
            return (raw != 0).view(self.shape)  # other bytes than 0 and 1 are no booleans
        return raw.view(self.dtype).view(self.shape)


class SafetensorsFolder:
    """An open folder with `config.json` and one or several safetensors files."""

    def __init__(self, folder: Path) -> None:
        """Open and check all headers.

        Raises:
            CheckpointError: A file is missing, damaged, hostile or outside the folder.
        """
        self._folder = folder
        self._config = read_json(folder / "config.json")
        self._entries: dict[str, Entry] = {}
        self._is_rounded: Callable[[str], bool] | None = None
        self._files = [MappedFile(path) for path in _weight_files(folder)]
        for file in self._files:
            for name, entry in read_entries(file).items():
                if name in self._entries:
                    raise damaged(file.path, f"tensor {name!r} is in two files")
                self._entries[name] = entry

    @property
    def metadata(self) -> dict[str, Any]:
        """Empty: safetensors carries no vocabulary."""
        return {}

    @property
    def folder(self) -> Path | None:
        """Where `tokenizer.json` is."""
        return self._folder

    @property
    def n_bytes(self) -> int:
        """Size of the weight files."""
        return sum(file.size for file in self._files)

    def formats(self) -> dict[str, int]:
        """Bytes by dtype."""
        entries = self._entries.values()
        return largest_first((str(e.dtype).removeprefix("torch."), e.n_bytes) for e in entries)

    def config(self) -> dict[str, Any]:
        """The contents of `config.json`."""
        return dict(self._config)

    def names(self) -> list[str]:
        """Tensor names."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._entry(name).shape

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """A copy of a whole tensor in another number format.

        Raises:
            CheckpointError: There is no such tensor, or it holds infinities.
        """
        numbers = self._finite(name, self._entry(name).view()).to(dtype, copy=True)
        check_range(numbers, name)
        return numbers

    def rounded(self, is_rounded: Callable[[str], bool]) -> "SafetensorsFolder":
        """The same files with codes of 8 bits for matrices that `is_rounded` says yes to by name,
        made while they are read."""
        found = copy.copy(self)
        found._is_rounded = is_rounded
        return found

    def has_codes(self, name: str) -> bool:
        """Whether a matrix is rounded; stored are plain numbers."""
        if self._is_rounded is None or not self._is_rounded(name):
            return False
        shape = self.shape(name)
        return len(shape) == 2 and shape[1] % GROUP == 0

    def codes(self, name: str, first: int, n_rows: int) -> Codes:
        """Some rows of a matrix for which `has_codes` holds."""
        ids = torch.arange(first, first + n_rows)
        return rounded_rows(self.rows(name, ids, torch.float32))

    def rows(self, name: str, ids: Int[Tensor, " N"], dtype: torch.dtype) -> Float[Tensor, "N D"]:
        """Some rows of a matrix; only their pages are read."""
        numbers = self._finite(name, self._entry(name).view()[ids]).to(dtype)
        check_range(numbers, name)
        return numbers

    def release(self) -> None:
        """Give back the memory of file pages read so far."""
        for file in self._files:
            file.release()

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise CheckpointError(f"{self._folder} has no tensor {name}", "fetch it again")
        return self._entries[name]

    def _finite(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float64)):
            raise CheckpointError(
                f"{name} holds numbers that are infinite or not numbers", "fetch the file again"
            )
        return tensor


def read_entries(file: MappedFile) -> dict[str, Entry]:
    """Parse and check one file's header.

    Raises:
        CheckpointError: Sizes, offsets, types or shapes do not fit together.
    """
    if file.size < 8:
        raise damaged(file.path, "it is shorter than a header")
    length = struct.unpack("<Q", file.read(0, 8))[0]
    if length > min(MAX_HEADER_BYTES, file.size - 8):
        raise damaged(file.path, f"its header claims {length} bytes")
    table = _parse(file.read(8, length), file.path)
    table.pop("__metadata__", None)
    entries = {name: _entry(file, name, value, 8 + length) for name, value in table.items()}
    check_overlaps(file.path, [(n, e.start, e.start + e.n_bytes) for n, e in entries.items()])
    if 8 + length + sum(e.n_bytes for e in entries.values()) != file.size:
        raise damaged(file.path, "its tensors do not fill the file exactly")
    return entries


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size, each key once.

    Raises:
        CheckpointError: It is missing, too large or no such object.
    """
    try:
        if path.stat().st_size > MAX_HEADER_BYTES:
            raise damaged(path, "it is too large for JSON")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror}", "a checkpoint folder needs this file"
        ) from None
    return _parse(data, path)


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a key appears twice")
        return table

    try:
        table = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"no valid JSON ({error})") from None
    if not isinstance(table, dict):
        raise damaged(path, "it is no JSON object")
    return table


def _entry(file: MappedFile, name: str, value: Any, data_start: int) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise damaged(file.path, f"tensor {name!r} has no dtype, shape and offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise damaged(file.path, f"tensor {name!r} has the type {dtype!r}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2 or len(shape) > 8:
        raise damaged(file.path, f"tensor {name!r} has the shape {shape} at {offsets}")
    if math.prod(max(d, 1) for d in shape) >= 1 << 48:  # an empty one, too, has strides
        raise damaged(file.path, f"tensor {name!r} has the shape {shape}")
    n_bytes = math.prod(shape) * DTYPES[dtype].itemsize
    start, end = offsets
    if end - start != n_bytes or data_start + end > file.size:
        raise damaged(file.path, f"tensor {name!r} does not fit its place: it is truncated")
    return Entry(file, DTYPES[dtype], tuple(shape), data_start + start, n_bytes)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in values)


def _weight_files(folder: Path) -> list[Path]:
    """The files named by the index, or the only one there is."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        single = folder / "model.safetensors"
        if not single.exists():
            raise CheckpointError(
                f"{folder} holds no model.safetensors", "name a folder with safetensors weights"
            )
        return [single]
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise damaged(index, "it has no weight_map")
    names = sorted(set(weight_map.values()))
    if len(names) > MAX_FILES:
        raise damaged(index, f"it names {len(names)} files")
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise damaged(index, f"it names {name!r}, which is not beside it")
    return [folder / name for name in names]
