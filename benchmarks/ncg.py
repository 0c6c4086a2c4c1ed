"""Reads the NLPContributionGraph data: `FOLDER/TASK/NUMBER/*-Stanza-out.txt` and `sentences.txt`.

The data has no licence file: it is read from folders that the user has, and never shipped.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepseek.apps.documents.document import SectionRole
from deepseek.apps.documents.headings import role_of
from deepseek.apps.papers.features import Item
from deepseek.apps.papers.scorer import Unit

# Information unit of the data -> ours. "Experiments" and "tasks" mix several and tell nothing.
UNIT_OF: dict[str, Unit] = {
    "research-problem": "problem",
    "approach": "approach",
    "model": "approach",
    "hyperparameters": "setup",
    "experimental-setup": "setup",
    "results": "results",
    "ablation-analysis": "ablation",
    "baselines": "baselines",
    "dataset": "resources",
    "code": "resources",
}
EVALUATION: tuple[SectionRole, ...] = ("experiments", "results", "ablation")


@dataclass(frozen=True, slots=True)
class Paper:
    """One annotated paper."""

    task: str
    folder: Path
    lines: list[str]
    gold: frozenset[int]
    """Numbers of the contribution sentences, from 1."""

    @property
    def title(self) -> str:
        """The second line; the first says "title"."""
        return self.lines[1] if len(self.lines) > 1 else ""


def papers(folder: Path) -> Iterator[Paper]:
    """All papers with text and annotation, in a fixed order."""
    for text in sorted(folder.glob("*/*/*-Stanza-out.txt")):
        answer = text.parent / "sentences.txt"
        if answer.exists():
            gold = frozenset(int(word) for word in answer.read_text().split())
            lines = text.read_text(encoding="utf-8").split("\n")
            while lines and not lines[-1].strip():
                lines.pop()
            yield Paper(text.parent.parent.name, text.parent, lines, gold)


def items(paper: Paper) -> list[Item]:
    """Its lines as items with roles guessed from the heading lines.

    As in a parsed document a section's sentences are counted without its heading.
    """
    places: list[tuple[SectionRole, str, int]] = []
    role: SectionRole = "front"
    heading, section, in_evaluation = "", 0, False
    headings = [_is_heading(paper.lines, i) for i in range(len(paper.lines))]
    for line, is_heading in zip(paper.lines, headings, strict=True):
        if is_heading:
            heading, section = line.strip(), section + 1
            role = _role(heading, role, in_evaluation)
            in_evaluation |= role in EVALUATION
        places.append((role, heading, section))
    sizes = Counter(
        section
        for (_, _, section), is_heading in zip(places, headings, strict=True)
        if not is_heading
    )
    seen: Counter[int] = Counter()
    result = []
    for line, is_heading, (line_role, title, number) in zip(
        paper.lines, headings, places, strict=True
    ):
        result.append(Item(line, line_role, title, seen[number], sizes[number], is_heading))
        seen[number] += not is_heading
    return result


def units(paper: Paper) -> list[Unit | None]:
    """The unit that cites each line (`info-units/*.json`), if one does. Many files are no JSON."""
    cited = {
        file.stem: _squeeze(file.read_text(encoding="utf-8"))
        for file in sorted((paper.folder / "info-units").glob("*.json"))
    }
    result: list[Unit | None] = []
    for line in paper.lines:
        text = _squeeze(line)
        by = [
            u
            for u, t in cited.items()
            if f"fromsentence{text}" in t or (len(text) > 25 and text in t)
        ]
        result.append(UNIT_OF.get(by[0]) if by and text else None)
    return result


def fold_by_task(tasks: Sequence[str]) -> list[int]:
    """Fold of each paper: the two great tasks are a fold each, the others share three."""
    sizes = Counter(tasks)
    large = sorted(task for task, n in sizes.items() if n > 30)
    small = sorted(task for task, n in sizes.items() if n <= 30)
    fold = {task: i for i, task in enumerate(large)}
    for i, place in enumerate(np.random.default_rng(0).permutation(len(small))):
        fold[small[place]] = len(large) + i % 3
    return [fold[task] for task in tasks]


def _squeeze(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower().replace("\\n", ""))


def _role(heading: str, before: SectionRole, in_evaluation: bool) -> SectionRole:
    if heading.lower() == "title":
        return "front"
    role = role_of(heading, "other")
    if role == "other":
        return before if in_evaluation or before in ("front", "abstract") else "method"
    if role == "method" and in_evaluation:
        return before if before in EVALUATION else "results"
    return role


def _is_heading(lines: list[str], i: int) -> bool:
    line = lines[i].strip()
    words = line.split()
    following = lines[i + 1] if i + 1 < len(lines) else ""
    if not 1 <= len(words) <= 9 or re.search(r"[.?!:;,]$|[=\[\]{}<>|]", line):
        return False
    letters = sum(c.isalpha() for c in line)
    if not line[0].isalnum() or letters < 0.6 * len(line.replace(" ", "")):
        return False
    return len(following.split()) >= 6 or line.lower() in ("title", "abstract")
