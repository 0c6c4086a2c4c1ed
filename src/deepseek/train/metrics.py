"""A run's record: one JSON object a step, in a file that survives kills and resumes."""

import json
import math
from pathlib import Path
from typing import Any

from deepseek.core.errors import CheckpointError
from deepseek.weights.cache import write_atomically


class MetricsFile:
    """Appends a line a step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, step: int) -> None:
        """Forget steps after a checkpoint: they will be run again.

        Raises:
            CheckpointError: The file cannot be written.
        """
        rows = [row for row in read_metrics(self.path) if row.get("step", 0) <= step]
        text = "".join(_line(row) for row in rows)
        try:
            write_atomically(self.path, text.encode())
        except OSError as error:
            raise _failed(self.path, error) from None

    def append(self, row: dict[str, Any]) -> None:
        """Write a line.

        Raises:
            CheckpointError: The file cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(row))
        except OSError as error:
            raise _failed(self.path, error) from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a kill may have cut the last one."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
    return rows


def _line(row: dict[str, Any]) -> str:
    return json.dumps(_finite(row), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no infinities: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return value


def _failed(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"cannot write {path}: {error.strerror}",
        "checkpoints are whole: free some space and go on with --resume",
    )
