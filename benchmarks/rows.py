"""One result of a benchmark, and the files that hold them: `benchmarks/results/NAME.json|md`."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(slots=True)
class Row:
    """A measured value, what it is compared with and what it has to reach."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    rounds: int = 1
    low: float | None = None
    high: float | None = None
    must: float | None = None
    moonshot: float | None = None
    better: str = "higher"
    judge: str = "ratio"


def write_results(name: str, rows: Sequence[Row], folder: Path = RESULTS) -> None:
    """Write rows, with the command, commit, date and hardware that gave them."""
    for row in rows:
        if row.peer_value and row.ratio is None:
            row.ratio = row.value / row.peer_value
    folder.mkdir(exist_ok=True)
    report = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_arguments()]),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{_processor()}, {os.cpu_count()} cores",
        "rows": [asdict(row) for row in rows],
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(_table(rows), encoding="utf-8")


def _table(rows: Sequence[Row]) -> str:
    lines = ["| | value | unit | must | peer | peer's value |", "|---|---:|---|---:|---|---:|"]
    for row in rows:
        must = "" if row.must is None else f"{row.must:g}"
        peer = "" if row.peer_value is None else f"{row.peer_value:.4g}"
        lines.append(
            f"| {row.name} | {row.value:.4g} | {row.unit} | {must} | {row.peer or ''} | {peer} |"
        )
    return "\n".join(lines) + "\n"


def _arguments() -> list[str]:
    """The arguments, without the folders of this machine."""
    return [Path(word).name if "/" in word else word for word in sys.argv[1:]]


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
