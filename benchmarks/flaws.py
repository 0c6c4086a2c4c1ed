"""How well planted flaws are found: `python benchmarks/flaws.py FOLDER…`.

One flaw is planted by program in a copy of a real paper (`plants.py`); the paper as it was is the
negative twin. For each sort of plant only findings of its accepted kinds (`plants.ACCEPTED`) with
at least `min_confidence` count.

- recall: plants for which such a finding appears in the planted document, is not among the twin's
  findings (same kind and same quotes) and, where the plant stands at a place, quotes a span that
  overlaps the changed sentence, the changed cell or the sentence that cites this cell.
- precision: hits / (hits + false alarms). A false alarm is every accepted finding on a twin, plus
  every accepted finding on a planted document that is not a hit. So a finding that was in the
  paper already counts twice. A true inconsistency of the paper itself counts as a false alarm
  too. Two findings that hit one plant are one hit.

For kinds that say "missing", twins are only the papers that have what the plant takes away.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deepseek.apps.documents.document import Document, Span
from deepseek.apps.documents.reader import read_document
from deepseek.apps.papers.flaws import Flaw, find_flaws
from deepseek.core.errors import DocumentError
from plants import ACCEPTED, PLANTS, Plant, plants

MIN_CONFIDENCE = 0.5


@dataclass(slots=True)
class Count:
    """Plants, hits and false alarms of one sort."""

    planted: int = 0
    hits: int = 0
    alarms_on_twins: int = 0
    alarms_on_planted: int = 0
    misses: list[str] = field(default_factory=list)

    def result(self) -> dict[str, object]:
        """Recall and precision with 95 % Wilson intervals."""
        alarms = self.alarms_on_twins + self.alarms_on_planted
        return {
            "planted": self.planted,
            "hits": self.hits,
            "recall": share(self.hits, self.planted),
            "recall_95": interval(self.hits, self.planted),
            "alarms_on_twins": self.alarms_on_twins,
            "alarms_on_planted": self.alarms_on_planted,
            "precision": share(self.hits, self.hits + alarms),
            "precision_95": interval(self.hits, self.hits + alarms),
        }


def share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def interval(part: int, whole: int) -> tuple[float, float] | None:
    """The 95 % Wilson interval of a share."""
    if not whole:
        return None
    z, p = 1.96, part / whole
    middle = (p + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z * math.sqrt(p * (1 - p) / whole + z * z / (4 * whole**2)) / (1 + z * z / whole)
    return round(middle - half, 4), round(middle + half, 4)


def documents(folders: Iterable[Path], limit: int | None = None) -> Iterator[Document]:
    """The PDFs under the folders, in a fixed order that mixes their tasks.

    Args:
        folders: Roots of the data.
        limit: Read at most so many.
    """
    paths = sorted((p for f in folders for p in f.glob("**/*.pdf")), key=lambda p: p.stem[::-1])
    for path in paths[:limit]:
        try:
            yield read_document(path)
        except DocumentError as error:
            print(f"left out: {error}", file=sys.stderr)


def evaluate(
    folders: list[Path], limit: int | None = None, min_confidence: float = MIN_CONFIDENCE
) -> dict[str, object]:
    """Plant, look and count over the papers of some folders. See the module's docstring.

    Args:
        folders: Roots under which PDFs lie.
        limit: At most so many papers.
        min_confidence: Findings below it do not count.
    """
    return score(documents(folders, limit), min_confidence)


def score(papers: Iterable[Document], min_confidence: float = MIN_CONFIDENCE) -> dict[str, object]:
    """`evaluate` over documents that were read already."""
    counts = {name: Count() for name in PLANTS}
    untouched: dict[str, int] = {}
    n_papers = 0
    for document in papers:
        n_papers += 1
        twin = [f for f in find_flaws(document) if f.confidence >= min_confidence]
        for flaw in twin:
            untouched[flaw.kind] = untouched.get(flaw.kind, 0) + 1
        for plant in plants(document, document.id):
            found = [f for f in find_flaws(plant.document) if f.confidence >= min_confidence]
            _count(counts[plant.kind], plant, document, twin, found)
    total = Count()
    for count in counts.values():
        total.planted += count.planted
        total.hits += count.hits
        total.alarms_on_twins += count.alarms_on_twins
        total.alarms_on_planted += count.alarms_on_planted
    return {
        "papers": n_papers,
        "min_confidence": min_confidence,
        "overall": total.result(),
        "by_kind": {name: count.result() for name, count in counts.items()},
        "findings_per_unmodified_paper": {
            kind: round(n / n_papers, 3) for kind, n in sorted(untouched.items())
        },
        "misses": {name: count.misses for name, count in counts.items()},
    }


def _count(
    count: Count, plant: Plant, document: Document, twin: list[Flaw], found: list[Flaw]
) -> None:
    accepted = ACCEPTED[plant.kind]
    before = [f for f in twin if f.kind in accepted]
    after = [f for f in found if f.kind in accepted]
    known = {_identity(document, f) for f in before}
    hits = [
        f
        for f in after
        if _identity(plant.document, f) not in known
        and (not plant.spans or touches(f, plant.spans))
    ]
    count.planted += 1
    count.hits += bool(hits)
    count.alarms_on_twins += len(before)
    count.alarms_on_planted += len(after) - len(hits)
    if not hits:
        count.misses.append(f"{document.title[:60]}: {plant.detail}")


def _identity(document: Document, flaw: Flaw) -> tuple[object, ...]:
    return (flaw.kind, *(document.quote(spans) for spans in flaw.evidence))


def touches(flaw: Flaw, spans: tuple[Span, ...]) -> bool:
    """Whether a finding quotes any character of the spans."""
    return any(
        a.page == b.page and a.start < b.end and b.start < a.end
        for quote in flaw.evidence
        for a in quote
        for b in spans
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--min-confidence", type=float, default=MIN_CONFIDENCE)
    parser.add_argument("--misses", action="store_true", help="print what was not found")
    arguments = parser.parse_args()
    result = evaluate(arguments.folders, arguments.limit, arguments.min_confidence)
    if not arguments.misses:
        del result["misses"]
    print(json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
