"""One document of a finished run, wherever it ended: kept, dropped or put aside."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek.core.errors import RequestError
from deepseek.data.quality.layout import DROPPED, KEPT, QUARANTINE, Layout
from deepseek.data.quality.pipeline import read_manifest
from deepseek.data.quality.shard import tables_in


def find(out: Path, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Where documents of this identifier (or records of this place) are, and all that is known.

    Raises:
        ConfigError: The folder holds no complete run.
        RequestError: There is none.
    """
    read_manifest(out)
    found = list(_found(Layout(out), name))
    if not found:
        raise RequestError(
            f"there is no document {name!r} in {out}",
            "identifiers are source/file, source/file@byte, or the record's own; see its files",
        )
    return found


def _found(layout: Layout, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind, key in ((KEPT, "id"), (DROPPED, "id"), (QUARANTINE, "place")):
        for path in sorted((layout.out / kind).glob("*.jsonl")):
            for table in tables_in(path, json.dumps(name, ensure_ascii=False)):
                if table.get(key) == name:
                    yield kind, table
