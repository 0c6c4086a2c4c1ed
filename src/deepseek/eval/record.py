"""What a run leaves behind: a record per item, a summary per task, one JSON file for all."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepseek.core.config import build
from deepseek.core.errors import ConfigError, RequestError
from deepseek.weights.cache import write_atomically

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One item: what was asked, what came, and what it is worth."""

    id: str
    group: str
    prompt: str
    """The text, or the conversation as JSON."""
    prompt_sha256: str
    expected: Any
    """The right choice with all choices, or the reference of a question."""
    output: str = ""
    """The generated text."""
    scores: tuple[tuple[float, int, bool], ...] = ()
    """Log-probability in nats, tokens, and whether greedy decoding gives it, per choice."""
    grades: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    """Wall time, shared evenly among the items of a batch."""
    error: str = ""
    """Why the item could not be asked, e.g. too long; it counts as wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """One task on one model."""

    task: str
    protocol: str
    metric: str
    shots: int
    chat: bool
    limit: int | None
    seed: int
    n_available: int
    """Items of the whole task."""
    n_errors: int
    seconds: float
    """Wall time of the model and the grading."""
    summary: dict[str, Estimate]
    groups: dict[str, Estimate]
    """The headline metric of each group."""
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All tasks of one run."""

    model: str
    weights: str
    """Quantisation and dtype of the weights, or the address of the server."""
    compute: str
    date: str
    package: str
    """Version of this package."""
    runs: tuple[TaskRun, ...]
    version: int = VERSION


def save_report(report: Report, path: Path) -> None:
    """Write a report atomically.

    Raises:
        RequestError: The place cannot be written.
    """
    text = json.dumps(asdict(report), ensure_ascii=False, indent=1) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise RequestError(
            f"cannot write {path}: {error.strerror}", "choose another --json"
        ) from None


def load_report(path: Path) -> Report:
    """Read a report.

    Raises:
        ConfigError: The file is missing, no JSON, or no report of this version.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "check the path") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not valid JSON: {error}", "run the evaluation again"
        ) from None
    if not isinstance(table, dict) or table.get("version") != VERSION:
        raise ConfigError(f"{path} is no evaluation report", "make one with deepseek eval --json")
    try:
        runs = tuple(_run(value) for value in table["runs"])
        return Report(**{**table, "runs": runs})
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged: {error}", "run the evaluation again") from None


def _run(value: dict[str, Any]) -> TaskRun:
    records = tuple(record_of(row) for row in value["records"])
    summary = {name: build(Estimate, row) for name, row in value["summary"].items()}
    groups = {name: build(Estimate, row) for name, row in value["groups"].items()}
    return TaskRun(**{**value, "records": records, "summary": summary, "groups": groups})


def record_of(row: dict[str, Any]) -> Record:
    """A record from its JSON form."""
    scores: Sequence[Any] = row.get("scores", ())
    return Record(**{**row, "scores": tuple((float(a), int(b), bool(c)) for a, b, c in scores)})
