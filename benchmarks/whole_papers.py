"""Questions on whole papers → benchmarks/results/whole_papers.*

    python benchmarks/whole_papers.py --model qwen2.5-coder-1.5b --papers 3

Qasper's questions come with the paragraphs that answer them. Each is put as a free question to the
paper analysis, which first sees sentences only and then also the whole paper; both are counted.
What counts is where the quotes stand:

- first: the first finding's first quote stands in such a paragraph.
- any: some quote of some finding does.
- precision: quotes that do, of all quotes.
- on the whole paper: questions with a finding that was answered with the paper in view.

Only questions with at least one paragraph of text (not a table or figure) as evidence are taken, of
the papers with the most of them among those of `--characters`. Times are the processor's.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek import R1Model
from deepseek.apps.documents.document import Document
from deepseek.apps.documents.reader import read_document
from deepseek.apps.papers.analysis import Finding
from deepseek.apps.papers.progress import AnalysisProgress
from deepseek.apps.papers.reading import ReadMode
from deepseek.eval.data import read_requests
from deepseek.eval.task import Setup
from report import Row, write_results

MIN_EVIDENCE = 40  # characters
MODES: tuple[ReadMode, ...] = ("sentences", "whole")


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper and its questions, each with the paragraphs that answer it."""

    document: Document
    questions: dict[str, list[str]]


@dataclass(slots=True)
class Count:
    """What was found for the questions of one mode."""

    questions: int = 0
    first: int = 0
    any: int = 0
    in_view: int = 0
    quotes: int = 0
    right: int = 0
    seconds: float = 0.0

    def add(self, findings: Sequence[Finding], paragraphs: list[str]) -> None:
        """Count one question."""
        marks = [
            [_stands_in(e.quote, paragraphs) for e in finding.evidence]
            for finding in findings
            if not finding.is_missing
        ]
        self.questions += 1
        self.first += bool(marks) and marks[0][0]
        self.any += any(map(any, marks))
        self.in_view += any(f.in_view == "paper" for f in findings)
        self.quotes += sum(map(len, marks))
        self.right += sum(map(sum, marks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--papers", type=int, default=3)
    parser.add_argument("--characters", type=int, nargs=2, default=(8_000, 30_000))
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    model = R1Model(args.model, context_window=100_000, threads=args.threads)
    counts = {mode: Count() for mode in MODES}
    for paper in papers(args.papers, *args.characters):
        ask(model, paper, counts)
        print(paper.document.title[:60], counts, flush=True)
        results = [row for mode in MODES for row in rows(args.model, mode, counts[mode])]
        write_results("whole_papers", results, sys.argv)


def ask(model: R1Model, paper: Paper, counts: dict[ReadMode, Count]) -> None:
    """Ask a paper's questions once: what sentences alone tell is announced before it is read."""
    by_sentences: dict[str, list[Finding]] = defaultdict(list)
    start = time.process_time()
    begun: list[float] = []

    def note(finding: Finding) -> None:
        if finding.in_view == "sentences":
            by_sentences[finding.task].append(finding)

    def watch(progress: AnalysisProgress) -> None:
        if progress.unit == "tokens" and not begun:
            begun.append(time.process_time())

    analysis = model.analyze_paper(
        paper.document, list(paper.questions), read="whole", on_progress=watch, on_finding=note
    )
    counts["sentences"].seconds += (begun or [time.process_time()])[0] - start
    counts["whole"].seconds += time.process_time() - start
    for question, paragraphs in paper.questions.items():
        counts["sentences"].add(by_sentences[question], paragraphs)
        counts["whole"].add(analysis[question].findings, paragraphs)
        for finding in (*by_sentences[question], *analysis[question].findings):
            print(question, "|", finding.in_view, finding.confidence, finding.statement)


def papers(n: int, least: int, most: int) -> list[Paper]:
    """The papers with the most questions that text answers."""
    asked: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for doc in read_requests(Setup(shots=0), "qasper_yesno/rc_5shot"):
        if _paragraphs(doc):
            asked[doc["id"].rpartition("_")[0]].append(doc)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, docs in sorted(asked.items(), key=lambda item: (-len(item[1]), item[0])):
            text = _markdown(docs[0])
            if least <= len(text) <= most:
                file = Path(folder) / f"{name}.md"
                file.write_text(text, encoding="utf-8")
                questions = {_question(doc): _paragraphs(doc) for doc in docs}
                found.append(Paper(read_document(file), questions))
            if len(found) == n:
                break
    return found


def rows(model: str, mode: ReadMode, count: Count) -> list[Row]:
    """Rows of one mode."""
    n = max(count.questions, 1)
    named = f"{model}, {mode}, {count.questions} questions"
    shares = {
        "first quote in the evidence": count.first / n,
        "a quote in the evidence": count.any / n,
        "quotes in the evidence": count.right / max(count.quotes, 1),
        "answered on the whole paper": count.in_view / n,
    }
    return [
        *(Row(f"{named}: {name}", 100 * share, "%") for name, share in shares.items()),
        Row(f"{named}: quotes", count.quotes, ""),
        Row(f"{named}: processor time", count.seconds / n, "s a question", better="lower"),
    ]


def _question(doc: dict[str, Any]) -> str:
    return doc["question"].strip().rstrip("?").rstrip() + "?"


def _paragraphs(doc: dict[str, Any]) -> list[str]:
    """The evidence that is text."""
    return [
        e for e in doc["evidence"] if not e.startswith("FLOAT SELECTED") and len(e) > MIN_EVIDENCE
    ]


def _markdown(doc: dict[str, Any]) -> str:
    parts = [f"# {doc['title']}", "## Abstract", doc["abstract"]]
    full = doc["full_text"]
    for name, paragraphs in zip(full["section_name"], full["paragraphs"], strict=True):
        if name:
            parts += [f"## {name.rpartition(':::')[2].strip()}", *filter(None, paragraphs)]
    return "\n\n".join(parts)


def _stands_in(quote: str, paragraphs: list[str]) -> bool:
    bare = _bare(quote)
    return any(bare in _bare(paragraph) for paragraph in paragraphs)


def _bare(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).lower()


if __name__ == "__main__":
    main()
