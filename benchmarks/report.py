"""Results files: `benchmarks/results/NAME.json`, and `NAME.md` beside it for people."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any, Literal

from deepseek.core.threads import thread_count
from deepseek.weights.cache import write_atomically

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
COLUMNS = ("", "ours", "unit", "peer", "peer's", "ratio", "must", "met", "range", "rounds")


@dataclass(slots=True)
class Row:
    """One measured quantity; `low` and `high` are the range over the rounds of what is judged."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    """Ours over the peer's; derived when both values are given."""
    rounds: int = 1
    low: float | None = None
    high: float | None = None
    must: float | None = None
    moonshot: float | None = None
    better: Literal["higher", "lower"] = "higher"
    judge: Literal["ratio", "value"] = "value"
    measured: str | None = None
    """Commit and date, if they are not those of the file."""

    def __post_init__(self) -> None:
        if self.ratio is None and self.peer_value:
            self.ratio = self.value / self.peer_value

    @property
    def is_met(self) -> bool | None:
        """Whether what must be reached was reached; None if nothing must."""
        judged = self.ratio if self.judge == "ratio" else self.value
        if self.must is None or judged is None:
            return None
        return judged >= self.must if self.better == "higher" else judged <= self.must


def paired_row(
    name: str,
    unit: str,
    peer: str,
    pairs: Sequence[tuple[float, float]],
    ratios: Sequence[float],
    musts: tuple[float | None, float | None],
) -> Row:
    """Two sides that took turns: the medians of both, and the ratio's median and range.

    Args:
        name: Of what was measured.
        unit: Of both sides.
        peer: The other side.
        pairs: Ours and the peer's in each round.
        ratios: Of each round; where less is better, the peer's in ours.
        musts: What the ratio must be, and what would be more.
    """
    ours, theirs = (median(side) for side in zip(*pairs, strict=True))
    return Row(
        name=name,
        value=ours,
        unit=unit,
        peer=peer,
        peer_value=theirs,
        ratio=median(ratios),
        rounds=len(ratios),
        low=min(ratios),
        high=max(ratios),
        must=musts[0],
        moonshot=musts[1],
        judge="ratio",
    )


def write_results(
    name: str, rows: Sequence[Row], arguments: Sequence[str], folder: Path = RESULTS
) -> None:
    """Write both files.

    Args:
        name: The theme, e.g. `inference`.
        rows: What was measured.
        arguments: `sys.argv` of the benchmark; folders are left out of it.
        folder: Where to.
    """
    words = [Path(word).name if os.sep in word else word for word in arguments[1:]]
    about = {
        "command": " ".join(["python", f"benchmarks/{Path(arguments[0]).name}", *words]),
        "commit": commit(),
        "date": date.today().isoformat(),
        "hardware": _hardware(),
    }
    report = about | {"rows": [_rounded(asdict(row)) for row in rows]}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(_page(name, about, rows), encoding="utf-8")


def read_rows(name: str, folder: Path = RESULTS) -> list[Row]:
    """What was written last, with commit and date; nothing if nothing was."""
    file = folder / f"{name}.json"
    if not file.exists():
        return []
    report = json.loads(file.read_text(encoding="utf-8"))
    rows = [Row(**row) for row in report["rows"]]
    for row in rows:
        row.measured = row.measured or f"{report['commit']}, {report['date']}"
    return rows


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """What was made before, or is made now, as plain data."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(make(), indent=1).encode())
    return json.loads(file.read_text(encoding="utf-8"))


def keep_rows(theme: str, part: str, rows: Sequence[Row]) -> None:
    """Keep a part's rows in out/THEME, and write the theme's file from all that are kept."""
    for row in rows:
        row.measured = row.measured or commit()
    folder = ROOT / "out" / theme
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{part}.json").write_text(json.dumps([asdict(row) for row in rows]))
    parts = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    write_results(theme, [Row(**row) for part in parts for row in part], sys.argv)


def commit() -> str:
    """The commit, with a mark if files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+changes", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def say_row(row: Row) -> None:
    """One line on standard error."""
    peer = "" if row.peer_value is None else f", {row.peer} {row.peer_value:.1f}"
    ratio = "" if row.ratio is None else f", ratio {row.ratio:.2f}"
    spread = "" if row.low is None else f" ({row.low:.2f} – {row.high:.2f})"
    say(f"{row.name}: {row.value:.2f} {row.unit}{peer}{ratio}{spread}")


def say(text: str) -> None:
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)


def _page(name: str, about: dict[str, str], rows: Sequence[Row]) -> str:
    lines = [
        f"# {name.capitalize()}",
        "",
        f"`{about['command']}` at {about['commit']}, {about['date']}, {about['hardware']}.",
        *_kept(rows),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
        *(_line(row) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _kept(rows: Sequence[Row]) -> list[str]:
    """Which rows are older than the file."""
    older = Counter(row.measured for row in rows if row.measured is not None)
    return [f"{n} of the rows were measured at {measured}." for measured, n in older.items()]


def _line(row: Row) -> str:
    spread = "" if row.low is None or row.high is None else f"{row.low:.4g} – {row.high:.4g}"
    met = {None: "", True: "yes", False: "**no**"}[row.is_met]
    peer_value, ratio, must = (
        "" if x is None else f"{x:.4g}" for x in (row.peer_value, row.ratio, row.must)
    )
    cells = (
        *(row.name, f"{row.value:.4g}", row.unit, row.peer or "", peer_value, ratio),
        *(must, met, spread, str(row.rounds)),
    )
    return "| " + " | ".join(cells) + " |"


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Five digits: more would be noise."""
    return {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()}


def _hardware() -> str:
    """Processor, threads and memory."""
    model = "unknown processor"
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    memory = ""
    if meminfo.exists():
        memory = f", {int(meminfo.read_text().split()[1]) / 2**20:.0f} GiB memory"
    return f"{model}, {thread_count()[0]} threads{memory}"
