"""Files of JSON lines: read one by one with their numbers, written whole or not at all."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek.core.errors import ConfigError
from deepseek.weights.cache import write_atomically

MAX_LINE = 16 << 20


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers, from 1, and objects of a file of JSON lines; empty lines are left out.

    Raises:
        ConfigError: The file cannot be read, or a line is too long or no JSON object.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE + 1), b""), 1):
                if len(line) > MAX_LINE:
                    raise ConfigError(f"{path}:{number} is too long", "split the line")
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    raise ConfigError(
                        f"{path}:{number} is no JSON object", "write one object a line"
                    )
                yield number, row
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "check the path") from None


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as lines of JSON, readable for others.

    Raises:
        ConfigError: The place cannot be written.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        write_atomically(path, text.encode("utf-8", "replace"))
        path.chmod(0o644)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", "choose another --out"
        ) from None
