"""Rows of the benchmarks of training: each part's are kept, a file has those of all parts."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from report import ROOT, Row, commit, write_results

KEPT = ROOT / "out" / "training"


def keep_rows(part: str, rows: Sequence[Row]) -> None:
    """Keep a part's rows, and write benchmarks/results/training.json from all that are kept."""
    for row in rows:
        row.measured = row.measured or commit()
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{part}.json").write_text(json.dumps([asdict(row) for row in rows]))
    parts = [json.loads(file.read_text()) for file in sorted(KEPT.glob("*.json"))]
    write_results("training", [Row(**row) for part in parts for row in part], sys.argv)
