"""Where a run keeps what: results in its folder, what it needs to go on in `.work` below."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepseek.data.quality.shard import shard_name
from deepseek.weights.cache import write_atomically

MANIFEST = "clean.json"
"""Written last: where it is, the run is complete."""
KEPT, DROPPED, QUARANTINE = "kept", "dropped", "quarantine"


@dataclass(frozen=True, slots=True)
class Layout:
    """The folder of a run."""

    out: Path

    @property
    def manifest(self) -> Path:
        """Settings, counts and files."""
        return self.out / MANIFEST

    @property
    def report(self) -> Path:
        """The page."""
        return self.out / "report.html"

    @property
    def work(self) -> Path:
        """Gone when the run is complete."""
        return self.out / ".work"

    def result(self, kind: str, shard: int) -> Path:
        """A file of `kept`, `dropped` or `quarantine`."""
        return self.out / kind / shard_name(shard)

    def passed(self, number: int, shard: int) -> Path:
        """Documents that a pass leaves."""
        return self.work / f"pass-{number}" / "kept" / shard_name(shard)

    def dropped(self, number: int, shard: int) -> Path:
        """Documents that a pass drops."""
        return self.work / f"pass-{number}" / "dropped" / shard_name(shard)

    def columns(self, number: int, shard: int) -> Path:
        """What the global operator at a pass's end scored."""
        return self.work / f"pass-{number}" / "columns" / f"{shard:05}.npz"

    def tally(self, number: int, shard: int) -> Path:
        """Written last of a shard in a pass: where it is, the shard is done."""
        return self.work / f"pass-{number}" / "tally" / f"{shard:05}.json"

    def state(self, number: int) -> Path:
        """What the global operator at a pass's end settled."""
        return self.work / f"pass-{number}" / "state.npz"


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays of plain numbers, whole or not at all."""
    memory = io.BytesIO()
    np.savez(memory, allow_pickle=False, **arrays)
    write_atomically(path, memory.getvalue())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read them."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def texts_as_array(texts: Sequence[str]) -> np.ndarray:
    """Texts as bytes, for a state or a column."""
    return np.frombuffer(json.dumps(list(texts)).encode(), dtype=np.uint8)


def texts_of_array(array: np.ndarray) -> list[str]:
    """The texts of `texts_as_array`."""
    found: list[str] = json.loads(array.tobytes())
    return found


def write_json(path: Path, table: Any) -> None:
    """Write an object, whole or not at all."""
    data = json.dumps(table, ensure_ascii=False, indent=1).encode()
    write_atomically(path, data)
    path.chmod(0o644)
