"""Writes safetensors folders for the tests, with any lie in the header that a test wants."""

import json
import struct
from pathlib import Path
from typing import Any

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}
CONFIG = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1}

Table = dict[str, Any]


def row(dtype: str, shape: list[int], start: int) -> Table:
    n_bytes = WIDTHS[dtype]
    for size in shape:
        n_bytes *= size
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + n_bytes]}


def sample_table() -> Table:
    """Three tensors of 4 x 8 float32, 8 bfloat16 and 16 float16: 176 bytes."""
    return {
        "__metadata__": {"format": "pt"},
        "a.weight": row("F32", [4, 8], 0),
        "b.weight": row("BF16", [8], 128),
        "c.weight": row("F16", [2, 8], 144),
    }


def sample_data() -> bytes:
    return (
        struct.pack("<32f", *(i / 4 for i in range(32)))
        + b"".join(struct.pack("<f", i)[2:] for i in range(8))
        + struct.pack("<16e", *(i / 2 for i in range(16)))
    )


def file_bytes(table: Table | str | bytes, data: bytes) -> bytes:
    """A file with this header, given as a table or as its very text."""
    header = json.dumps(table) if isinstance(table, dict) else table
    raw = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw + data


def write_folder(folder: Path, data: bytes, config: Table | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (folder / "model.safetensors").write_bytes(data)
    return folder
