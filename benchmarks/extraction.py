"""Text extraction against poppler's `pdftotext` on the same PDFs → benchmarks/results/extraction.*

    python benchmarks/extraction.py FILE.pdf … [--folder FOLDER --count 40]

Definitions. Both texts are made alike first: NFKC, ligatures opened, every hyphen and control
character removed (after joining words broken at line ends), quotes made plain, and running heads,
feet and page numbers left out of the oracle's text (lines at a page's edge that repeat with their
digits masked on a fifth of the pages, or that are a number): the reader drops them on purpose.

- words: recall and precision of each page's multiset of words (a Chinese character is a word).
- characters: words that both sides have count whole, wherever they stand on the page; what is
  left over on each side is joined without spaces and aligned (longest common subsequence).
  Accuracy = 2 · matched / (ours + theirs): missing, wrong and surplus characters all count.
- order: longest common subsequence of the words in reading order over the number of common words,
  against `pdftotext` or `pdftotext -raw`, whichever agrees better on the page.
- pages/s: by processor time (user and system, child processes too; other programs on the machine
  then matter little) of `read_document` and of `pdftotext -bbox-layout`, which also gives boxes.
"""

import argparse
import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from deepseek.apps.documents.reader import read_document
from deepseek.core.errors import DocumentError
from report import Row, write_results

HYPHENS = re.compile("[-\u00ad\u2010\u2011\u2012\u2013\u2014\u2212\ufffe\x02]")
WORD = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")
QUOTES = str.maketrans("‘’“”´`", "''\"\"''")
LIMIT = 6_000  # words of a page that are aligned; no page of prose has more


@dataclass(slots=True)
class Score:
    """Counts over a document."""

    characters: int = 0
    matched: int = 0
    words_ours: int = 0
    words_theirs: int = 0
    words_common: int = 0
    in_order: int = 0
    ordered: int = 0

    @property
    def accuracy(self) -> float:
        """Share of characters that agree."""
        return 2 * self.matched / max(self.characters, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--folder", type=Path, action="append", default=[])
    parser.add_argument("--count", type=int, default=40, help="files taken from the folders")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--verbose", action="store_true", help="print each page that disagrees")
    options = parser.parse_args()
    found = sorted(path for folder in options.folder for path in folder.rglob("*.pdf"))
    step = max(1, len(found) // options.count)
    rows: list[Row] = []
    for path in options.files:
        score, speeds, peers = measured(path, options.rounds, options.verbose)
        rows += document_rows(path.stem, score, speeds, peers)
        show(path.name, score, speeds, peers)
    many = []
    for path in filter(readable, found[::step]):
        many.append(measured(path, 1, options.verbose))
        show(path.name, *many[-1])
    if many:
        rows += corpus_rows(many)
    write_results("extraction", rows, sys.argv)


def readable(path: Path) -> bool:
    try:
        return len(read_document(path).pages) > 0
    except DocumentError as error:
        print(f"left out: {error}")
        return False


def measured(path: Path, rounds: int, verbose: bool) -> tuple[Score, list[float], list[float]]:
    """Scores of one file, and pages a second of both sides for each round, in turns."""
    speeds, peers = [], []
    for _ in range(rounds):
        start = processor_time()
        document = read_document(path)
        speeds.append(len(document.pages) / (processor_time() - start))
        start = processor_time()
        poppler(path, "-bbox-layout")
        peers.append(len(document.pages) / (processor_time() - start))
    plain, raw = (oracle_pages(poppler(path, *how)) for how in ((), ("-raw",)))
    score = Score()
    for page in document.pages:
        ours = words(page.text)
        theirs = [words(side[page.number - 1]) for side in (plain, raw)]
        before = score.matched, score.characters
        compare(score, ours, theirs)
        matched, characters = score.matched - before[0], score.characters - before[1]
        if verbose and characters and 2 * matched / characters < 0.97:
            surplus = Counter(ours) - Counter(theirs[0])
            missing = Counter(theirs[0]) - Counter(ours)
            print(f"  {path.name} p{page.number} {2 * matched / characters:.3f}")
            print("    surplus", list(surplus)[:40], "\n    missing", list(missing)[:40])
    return score, speeds, peers


def processor_time() -> float:
    """Seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def compare(score: Score, ours: list[str], theirs: list[list[str]]) -> None:
    """Add one page to the score."""
    first = theirs[0]
    common = Counter(ours) & Counter(first)
    size = sum(len(word) * count for word, count in common.items())
    left = ["".join(rest(side, common)) for side in (ours, first)]
    score.matched += size + common_length(*left)
    score.characters += sum(len(word) for side in (ours, first) for word in side)
    score.words_ours += len(ours)
    score.words_theirs += len(first)
    score.words_common += common.total()
    if common:
        best = max(theirs, key=lambda side: order_share(ours, side))
        shared = (Counter(ours) & Counter(best)).total()
        score.in_order += round(order_share(ours, best) * shared)
        score.ordered += shared


def rest(side: list[str], common: Counter[str]) -> list[str]:
    """The words of a side that the other has not, in order."""
    budget = common.copy()
    left = []
    for word in side:
        if budget[word] > 0:
            budget[word] -= 1
        else:
            left.append(word)
    return left


def order_share(ours: list[str], theirs: list[str]) -> float:
    """Longest common subsequence of words over the number of common words."""
    common = (Counter(ours) & Counter(theirs)).total()
    return common_length(ours[:LIMIT], theirs[:LIMIT]) / common if common else 1.0


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bit vectors (Hyyrö 2004): exact and fast."""
    places: dict[str, int] = {}
    for i, item in enumerate(a):
        places[item] = places.get(item, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for item in b:
        match = row & places.get(item, 0)
        row = ((row + match) | (row - match)) & full
    return len(a) - row.bit_count()


def words(text: str) -> list[str]:
    """Words after making both sides alike."""
    text = re.sub(r"(?<=\w)[-\u00ad\u2010\ufffe\x02]\n(?=\w)", "", text)
    text = unicodedata.normalize("NFKC", text).translate(QUOTES)
    text = HYPHENS.sub("", text)
    text = "".join(c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    return WORD.findall(text)


def oracle_pages(text: str) -> list[str]:
    """The oracle's pages without running heads, feet and page numbers."""
    pages = [page.split("\n") for page in text.split("\f")]
    edges = [edge_lines(page) for page in pages]
    counts = Counter(key for edge in edges for key in {mask(line) for line in edge})
    needed = 2 if len(pages) <= 4 else max(3, (len(pages) - 1) // 5)
    repeated = {key for key, count in counts.items() if count >= needed}
    kept = []
    for page, edge in zip(pages, edges, strict=True):
        dropped = {line for line in edge if mask(line) in repeated or mask(line) in ("#", "")}
        kept.append("\n".join(line for line in page if line not in dropped))
    return kept


def edge_lines(page: list[str]) -> list[str]:
    """The first and last three printed lines."""
    printed = [line for line in page if line.strip()]
    return printed[:3] + printed[-3:]


def mask(line: str) -> str:
    return re.sub(r"\d+", "#", line.strip().lower())


def poppler(path: Path, *arguments: str) -> str:
    command = ["pdftotext", "-enc", "UTF-8", *arguments, str(path), "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    return done.stdout.decode("utf-8", "replace")


def show(name: str, score: Score, speeds: list[float], peers: list[float]) -> None:
    recall = score.words_common / max(score.words_theirs, 1)
    precision = score.words_common / max(score.words_ours, 1)
    order = score.in_order / max(score.ordered, 1)
    print(
        f"{name:32} characters {score.accuracy:.4f}  word recall {recall:.4f} precision "
        f"{precision:.4f}  order {order:.4f}  {median(speeds):.0f} pages/s (poppler "
        f"{median(peers):.0f})"
    )


def document_rows(name: str, score: Score, speeds: list[float], peers: list[float]) -> list[Row]:
    recall = score.words_common / max(score.words_theirs, 1)
    precision = score.words_common / max(score.words_ours, 1)
    order = score.in_order / max(score.ordered, 1)
    return [
        Row(f"{name}: character accuracy", score.accuracy, "share", must=0.98, judge="value"),
        Row(f"{name}: word recall", recall, "share", judge="value"),
        Row(f"{name}: word precision", precision, "share", judge="value"),
        Row(f"{name}: reading order", order, "share", must=0.95, judge="value"),
        speed_row(f"{name}: speed", speeds, peers),
    ]


def speed_row(name: str, speeds: list[float], peers: list[float]) -> Row:
    return Row(
        name,
        median(speeds),
        "pages/s",
        peer="pdftotext -bbox-layout",
        peer_value=median(peers),
        rounds=len(speeds),
        low=min(speeds),
        high=max(speeds),
        judge="value",
    )


def corpus_rows(many: list[tuple[Score, list[float], list[float]]]) -> list[Row]:
    """Over many papers: the totals, and how many files fall short."""
    total = Score()
    for score, _, _ in many:
        for field in Score.__slots__:
            setattr(total, field, getattr(total, field) + getattr(score, field))
    speeds = [speed for _, values, _ in many for speed in values]
    peers = [speed for _, _, values in many for speed in values]
    name = f"{len(many)} papers"
    accuracies = [score.accuracy for score, _, _ in many]
    lowest = min(accuracies)
    short = sum(1 for accuracy in accuracies if accuracy < 0.98) / len(many)
    return [
        *document_rows(name, total, speeds, peers),
        Row(f"{name}: median accuracy", median(accuracies), "share", must=0.98, judge="value"),
        Row(f"{name}: lowest accuracy", lowest, "share", judge="value"),
        Row(f"{name}: below 0.98", short, "share", judge="value", better="lower"),
    ]


if __name__ == "__main__":
    main()
