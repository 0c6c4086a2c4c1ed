"""The data pipeline beside datatrove's local executor → benchmarks/results/data_pipeline.*

    python benchmarks/data_pipeline.py PATH … --prose PATH [--documents 4000] [--rounds 3]

Definitions. The corpus is one file of lines of JSON with texts of the named paths, as many of each,
shuffled by their names' digests, at most 20,000 characters each. Both sides read it, with two
workers, and write what is left. Operators are those of FineWeb with the same thresholds: Gopher's
quality and repetition rules, C4's, FineWeb's own; then MinHash (runs of 5 words, 14 bands of 8).

- documents/s: by processor time of all processes, start included (other programs on the machine
  then matter little); peak: the largest resident set of a process.
- equal decisions: documents that both keep, or both drop, of all.
- junk: pieces of prose among which junk of seven known kinds is planted; precision and
  recall of what our operators drop, and F1. The reference of perplexity is other prose there.
  Gopher's share of words with letters is 0.7 there: punctuation counts as words, and quotations and
  references bring good essays below 0.8.
"""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from deepseek.data.quality.config import load_clean_config
from deepseek.data.quality.pipeline import Pipeline
from report import Row, paired_row, say, say_row, write_results
from texts import cut, read, shuffled

FILTERS = ("gopher", "repetition", "c4", "fineweb")
LONGEST = 20_000
PIECE = 6_000
"""Characters of a piece of prose."""
WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="files and folders of the corpus")
    parser.add_argument("--prose", type=Path, help="a folder with essays or books")
    parser.add_argument("--documents", type=int, default=4_000)
    parser.add_argument("--pieces", type=int, default=1_200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "PART", "FOLDER"), help="one run")
    options = parser.parse_args()
    if options.side:
        side, part, folder = options.side
        {"ours": ours, "peer": peer}[side](part, Path(folder))
        return
    rows: list[Row] = []
    if options.paths:
        rows += speed_rows(options.paths, options.documents, options.rounds)
    if options.prose:
        rows += junk_rows(options.prose, options.pieces)
    for row in rows:
        say_row(row)
    write_results("data_pipeline", rows, sys.argv)


def speed_rows(paths: Sequence[Path], most: int, rounds: int) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = (shuffled(read([path]), most // len(paths)) for path in paths)
        corpus = shuffled((pair for part in parts for pair in part), most)
        (folder / "in").mkdir()
        with (folder / "in" / "corpus.jsonl").open("w", encoding="utf-8") as file:
            for i, (_, text) in enumerate(corpus):
                file.write(json.dumps({"id": str(i), "text": text[:LONGEST]}) + "\n")
        size = sum(min(LONGEST, len(text)) for _, text in corpus)
        say(f"{len(corpus):,} documents, {size / 1e6:.1f} million characters")
        for part in ("filters", "filters and MinHash"):
            pairs, peaks, kept = [], [], {}
            for number in range(rounds):
                measured = {}
                for side in ("ours", "peer"):
                    work = folder / f"{side}-{part.replace(' ', '-')}-{number}"
                    seconds, peak = one_run(side, part, folder, work)
                    measured[side] = len(corpus) / seconds
                    kept[side] = kept_ids(side, work)
                    peaks.append((side, peak))
                pairs.append((measured["ours"], measured["peer"]))
            ratios = [mine / theirs for mine, theirs in pairs]
            rows.append(paired_row(part, "documents/s", "datatrove", pairs, ratios, (2.0, 10.0)))
            ours_peak, their_peak = (
                max(peak for s, peak in peaks if s == side) for side in ("ours", "peer")
            )
            rows.append(
                Row(
                    f"{part}, peak",
                    ours_peak,
                    "MiB a process",
                    "datatrove",
                    their_peak,
                    must=2_048,
                    better="lower",
                )
            )
            differ = len(kept["ours"] ^ kept["peer"])
            equal = 100 * (1 - differ / len(corpus))
            must = 99.5 if part == "filters" else None
            rows.append(Row(f"{part}, equal decisions", equal, "%", must=must))
            rows.append(Row(f"{part}, kept", len(kept["ours"]), "", "datatrove", len(kept["peer"])))
            for row in rows[-4:]:
                say_row(row)
    return rows


def one_run(side: str, part: str, folder: Path, work: Path) -> tuple[float, float]:
    """Processor seconds and MiB of a run in a session of its own."""
    work.mkdir()
    command = [sys.executable, __file__, "--side", side, part, str(work)]
    with (work / "log").open("w") as log:
        process = subprocess.Popen(
            command, start_new_session=True, stdout=log, stderr=subprocess.STDOUT
        )
        ticks: dict[str, int] = {}
        peak = 0
        while process.poll() is None:
            peak = max(peak, look(process.pid, ticks))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{side} failed:\n{(work / 'log').read_text()[-3000:]}")
    return sum(ticks.values()) / os.sysconf("SC_CLK_TCK"), peak / 1024


def look(session: int, ticks: dict[str, int]) -> int:
    """Note the ticks of all processes of a session; the largest peak of one, in KiB.

    Workers of a server of processes are nobody's children that waits for them, so that the
    system's sums of children's times leave them out.
    """
    peak = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) != session:
                continue
            ticks[folder.name] = int(fields[11]) + int(fields[12])
            for line in (folder / "status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = max(peak, int(line.split()[1]))
        except (OSError, IndexError):  # it has ended
            continue
    return peak


def ours(part: str, work: Path) -> None:
    names = FILTERS if part == "filters" else (*FILTERS, "minhash")
    tables = "".join(f'[[operators]]\nuse = "{name}"\n' for name in names)
    size = (work.parent / "in" / "corpus.jsonl").stat().st_size
    # Two tasks, like the peer's: half of the file each.
    head = f"[clean]\nshard_bytes = {min(size // 2 + 1, 16_000_000)}\n"
    config = work / "clean.toml"
    config.write_text(f'{head}[sources.all]\npaths = ["../in"]\n{tables}')
    Pipeline(load_clean_config(config), work / "out", n_workers=WORKERS).run()


def peer(part: str, work: Path) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig

    halves = work / "halves"  # the peer shares out whole files
    halves.mkdir()
    lines = (work.parent / "in" / "corpus.jsonl").read_text(encoding="utf-8").splitlines(True)
    for i in range(WORKERS):
        mine = lines[i * len(lines) // WORKERS : (i + 1) * len(lines) // WORKERS]
        (halves / f"{i}.jsonl").write_text("".join(mine), encoding="utf-8")

    def run(steps: list[object], name: str, tasks: int = WORKERS) -> None:
        LocalPipelineExecutor(
            steps, tasks=tasks, workers=WORKERS, logging_dir=str(work / "logs" / name)
        ).run()

    filtered = work / ("filtered" if part != "filters" else "kept")
    run(
        [
            JsonlReader(str(halves)),
            GopherQualityFilter(),
            GopherRepetitionFilter(),
            C4QualityFilter(),
            FineWebQualityFilter(),
            JsonlWriter(str(filtered), compression=None),
        ],
        "filters",
    )
    if part != "filters":
        config = minhash.MinhashConfig(
            hash_config=HashConfig(hash_fc="sha1", precision=64),
            n_grams=5,
            num_buckets=14,
            hashes_per_bucket=8,
        )
        signatures, buckets, removed = (str(work / n) for n in ("signatures", "buckets", "removed"))
        reader = JsonlReader(str(filtered))
        run([reader, minhash.MinhashDedupSignature(signatures, config)], "signatures")
        run([minhash.MinhashDedupBuckets(signatures, buckets, config=config)], "buckets", 14)
        run([minhash.MinhashDedupCluster(buckets, removed, config=config)], "cluster", 1)
        writer = JsonlWriter(str(work / "kept"), compression=None)
        run([reader, minhash.MinhashDedupFilter(removed), writer], "filter")


def kept_ids(side: str, work: Path) -> set[str]:
    folder = work / "out" / "kept" if side == "ours" else work / "kept"
    found = set()
    for path in folder.rglob("*.jsonl*"):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as lines:
            found |= {json.loads(line)["id"] for line in lines}
    return found


JUNK_CONFIG = """
[sources.all]
paths = ["corpus.jsonl"]
[[operators]]
use = "language"
keep = ["en"]
[[operators]]
use = "gopher"
min_alpha_words = 0.7
[[operators]]
use = "repetition"
[[operators]]
use = "fineweb"
[[operators]]
use = "exact"
[[operators]]
use = "minhash"
[[operators]]
use = "perplexity"
reference = ["reference"]
above = 0.995
most = 1500.0
"""


def junk_rows(folder: Path, n: int) -> list[Row]:
    """A quarter of n pieces is junk; as many again are the reference."""
    pieces = [
        (f"{name}-{i}", piece)
        for name, text in read([folder])
        for i, piece in enumerate(cut(text, PIECE))
    ]
    pieces = [text for _, text in shuffled(pieces, 2 * n)]
    reference, rest = pieces[: len(pieces) // 2], pieces[len(pieces) // 2 :]
    planted = plant(rest, random.Random(0))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "reference").mkdir()
        for i, text in enumerate(reference):
            (work / "reference" / f"{i}.txt").write_text(text, encoding="utf-8")
        with (work / "corpus.jsonl").open("w", encoding="utf-8") as file:
            for i, (kind, text) in enumerate(planted):
                file.write(json.dumps({"id": f"{i} {kind}", "text": text}) + "\n")
        (work / "clean.toml").write_text(JUNK_CONFIG)
        config = load_clean_config(work / "clean.toml")
        Pipeline(config, work / "out", n_workers=WORKERS).run()
        kept = kept_ids("ours", work)
    junk = {f"{i} {kind}" for i, (kind, _) in enumerate(planted) if kind}
    dropped = {f"{i} {kind}" for i, (kind, _) in enumerate(planted)} - kept
    precision, recall = len(dropped & junk) / len(dropped), len(dropped & junk) / len(junk)
    missed = Counter(name.split(" ", 1)[1] for name in junk - dropped)
    say(f"{len(planted)} pieces, {len(junk)} junk; missed: {dict(missed)}")
    return [
        Row("junk, F1", 2 * precision * recall / (precision + recall), "", must=0.9),
        Row("junk, precision", precision, ""),
        Row("junk, recall", recall, ""),
    ]


def plant(pieces: Sequence[str], generator: random.Random) -> list[tuple[str, str]]:
    """Kinds (empty: good) and texts, shuffled. A copied piece stays good where it stands first."""
    n = len(pieces) // 4
    good, other = pieces[n:], pieces[:n]
    found = [("", text) for text in good]
    for i, text in enumerate(other):
        kind = ("copy", "near copy", "words", "letters", "menu", "advertisement", "again")[i % 7]
        if kind in ("copy", "near copy"):
            text = generator.choice(good)
            if kind == "near copy":
                text += f"\nPosted by visitor {i}; all rights reserved."
        else:
            text = spoiled(kind, text, generator)
        found.append((kind, text))
    # Copies come behind their originals, which are the ones to keep.
    return found


def spoiled(kind: str, text: str, generator: random.Random) -> str:
    """Junk of a kind, made of a text."""
    words = text.split()
    if kind == "words":
        lines = (line.rstrip(".").split() for line in text.split("\n") if line.strip())
        mixed = (generator.sample(line, len(line)) for line in lines)
        return "\n\n".join(" ".join(line) + "." for line in mixed)
    if kind == "letters":
        return " ".join("".join(generator.sample(word, len(word))) for word in words)
    if kind == "menu":
        return "\n".join(" ".join(words[j : j + 3]) for j in range(0, len(words), 3))
    if kind == "advertisement":
        offer = generator.choice(("best price online", "casino bonus", "cheap loans today"))
        return " ".join(f"{offer} {generator.choice(words)}!" for _ in range(120))
    return "\n".join(text.split("\n")[:1] * 12)[: 4 * PIECE]


if __name__ == "__main__":
    main()
