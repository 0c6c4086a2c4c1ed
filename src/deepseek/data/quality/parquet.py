"""Rows of Parquet files as records; a damaged part is put aside, the rest is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek.data.quality.record import Flaw

ROWS = 256
"""Read at once."""


def group_sizes(path: Path) -> list[int]:
    """Bytes of each row group; empty where the file cannot be read."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        data = parquet.ParquetFile(path).metadata
        return [data.row_group(number).total_byte_size for number in range(data.num_row_groups)]
    except (OSError, arrow.ArrowException):
        return []


def rows(
    path: Path, name: str, start: int, end: int
) -> Iterator[tuple[str, dict[str, Any]] | Flaw]:
    """Place and columns of each row of some row groups (end -1: all from there)."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
        n_groups = file.metadata.num_row_groups
    except (OSError, arrow.ArrowException) as error:
        yield Flaw(name, f"no readable Parquet file: {str(error)[:200]}")
        return
    for group in range(start, n_groups if end < 0 else end):
        number = 0
        try:
            for batch in file.iter_batches(ROWS, row_groups=[group]):
                for row in batch.to_pylist():
                    yield f"{name}@{group}.{number}", row
                    number += 1
        except (OSError, ValueError, arrow.ArrowException) as error:
            reason = f"unreadable from here to the row group's end: {str(error)[:200]}"
            yield Flaw(f"{name}@{group}.{number}", reason)
