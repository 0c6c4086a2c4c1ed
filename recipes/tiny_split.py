"""What a cleaning run kept, as one file for each source: each has its weight in training."""

import sys
from collections import defaultdict
from pathlib import Path

from deepseek.data.lines import read_lines, write_lines
from deepseek.data.quality.corpus import kept_files


def main(cleaned: Path, out: Path) -> None:
    rows = defaultdict(list)
    for file in kept_files(cleaned) or []:
        for _, row in read_lines(file):
            rows[row["source"]].append({"text": row["text"], "id": row["id"]})
    for source, own in rows.items():
        write_lines(out / f"{source}.jsonl", own)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
