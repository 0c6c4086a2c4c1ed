"""Quality of the paper analysis on public ground truth → benchmarks/results/papers.json.

* Contribution sentences of the NLPContributionGraph task (SemEval-2021 task 11), test split.
* Planted flaws in the papers of that task, with the unmodified twins as negatives.
* Findings with a verified quote on its page, on PDFs of different layouts, with the model; each
  quote is looked up once more in the text that `pdftotext` gives of that page.

The data has no licence for redistribution: clone `ncg-task/training-data` and `ncg-task/test-data`
and name the folders. The test split is only ever evaluated on.
"""

import argparse
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import contribution
import flaws
from deepseek import R1Model
from deepseek.apps.papers.analysis import Evidence, PaperAnalysis
from report import Row, write_results

TASKS = ("method_innovation", "experiment_flaws", "limitations", "datasets_and_metrics")


def main() -> int:
    """Run what there is data for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ncg-train", type=Path, help="folder of ncg-task/training-data")
    parser.add_argument("--ncg-test", type=Path, help="folder of ncg-task/test-data")
    parser.add_argument("--pdfs", type=Path, nargs="*", default=[], help="PDFs to analyse")
    parser.add_argument("--model", help="checkpoint for the analyses")
    parser.add_argument("--reports", type=Path, help="folder for the analyses' HTML reports")
    args = parser.parse_args()
    rows: list[Row] = []
    if args.ncg_train and args.ncg_test:
        rows += contribution_rows(args.ncg_train, args.ncg_test)
    if args.ncg_test:
        rows += flaw_rows(args.ncg_test)
    if args.pdfs:
        rows += quote_rows(args.pdfs, args.model, args.reports)
    if not rows:
        parser.error("name --ncg-train and --ncg-test, or --pdfs")
    write_results("papers", rows, sys.argv)
    return 0


def contribution_rows(train: Path, test: Path) -> list[Row]:
    """F1 of the shipped scorer beside the naive Bayes baseline."""
    ours, bayes = contribution.evaluate(test), contribution.naive_bayes(train, test)
    common: dict[str, Any] = {"unit": "%", "peer": "naive Bayes", "better": "higher"}
    return [
        Row(
            name="NCG contribution sentences, F1",
            value=ours["f1"],
            peer_value=bayes["f1"],
            must=45.0,
            moonshot=58.0,
            **common,
        ),
        *(
            Row(
                name=f"NCG contribution sentences, {k}",
                value=ours[k],
                peer_value=bayes[k],
                **common,
            )
            for k in ("precision", "recall")
        ),
    ]


def flaw_rows(test: Path) -> list[Row]:
    """Recall and precision on planted flaws, overall and by kind."""
    result = flaws.evaluate([test])
    overall = result["overall"]
    rows = [
        Row(
            name="planted flaws, recall",
            value=100 * overall["recall"],
            unit="%",
            must=60.0,
            moonshot=85.0,
        ),
        Row(
            name="planted flaws, precision",
            value=100 * overall["precision"],
            unit="%",
            must=70.0,
            moonshot=85.0,
        ),
    ]
    for row, key in zip(rows, ("recall_95", "precision_95"), strict=True):
        row.low, row.high = (100 * bound for bound in overall[key])
    for kind, count in result["by_kind"].items():
        for measure in ("recall", "precision"):
            if count[measure] is not None:
                name = f"planted flaws, {measure}, {kind} ({count['planted']} planted)"
                rows.append(Row(name=name, value=100 * count[measure], unit="%"))
    return rows


def quote_rows(pdfs: list[Path], model: str | None, reports: Path | None) -> list[Row]:
    """Share of findings and quotes that hold, per paper and in all."""
    reader = R1Model(model, context_window=100_000)
    rows, findings, quoted, quotes, placed = [], 0, 0, 0, 0
    for pdf in pdfs:
        analysis = reader.analyze_paper(pdf, TASKS)
        if reports:
            reports.mkdir(parents=True, exist_ok=True)
            (reports / f"{pdf.stem}.html").write_text(analysis.to_html(), encoding="utf-8")
            (reports / f"{pdf.stem}.md").write_text(analysis.to_markdown(), encoding="utf-8")
        seconds = analysis.timings["total"]
        rows.append(
            Row(name=f"analysis of {pdf.stem}, 4 tasks", value=seconds, unit="s", better="lower")
        )
        checked = [[stands_on_page(pdf, e) for e in f.evidence] for f in analysis.findings]
        findings += len(checked)
        quoted += sum(bool(marks) and all(marks) for marks in checked)
        quotes += sum(map(len, checked))
        placed += sum(map(sum, checked))
        complain(analysis, checked)
    share = 100 * quoted / max(findings, 1)
    same = 100 * placed / max(quotes, 1)
    rows += [
        Row(
            name="findings with verified quotes on the right page", value=share, unit="%", must=95.0
        ),
        Row(name="quotes found by pdftotext on the page named", value=same, unit="%", must=100.0),
    ]
    return rows


def stands_on_page(pdf: Path, evidence: Evidence) -> bool:
    """Whether each part of a quote stands on its page in the text of another PDF reader.

    Layout differs between readers: only letters and digits are compared, in their order. A
    sentence that crosses columns, a footnote or a formula may be cut apart there, so that parts
    of 40 characters are looked up, and nine in ten must be found.
    """
    if not evidence.verified:
        return False
    hits = total = 0
    for span, part in zip(evidence.spans, _parts(evidence), strict=True):
        page = _bare(page_text(pdf, span.page))
        bare = _bare(part)
        pieces = [bare[i : i + 40] for i in range(0, max(len(bare) - 20, 1), 40)]
        total += len(pieces)
        hits += sum(piece in page for piece in pieces)
    return hits >= 0.9 * total


def page_text(pdf: Path, page: int) -> str:
    """The text of one page by `pdftotext` (poppler), in the order of the file."""
    tool = shutil.which("pdftotext")
    if tool is None:
        raise SystemExit("error: pdftotext is missing\nhint: install poppler-utils")
    command = [tool, "-raw", "-f", str(page), "-l", str(page), str(pdf), "-"]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode(
        "utf-8", "replace"
    )


def complain(analysis: PaperAnalysis, checked: list[list[bool]]) -> None:
    """Name the quotes that were not found, for a look by eye."""
    for finding, marks in zip(analysis.findings, checked, strict=True):
        for evidence, found in zip(finding.evidence, marks, strict=True):
            if not found:
                print(f"not found, page {evidence.page}: {evidence.quote}", file=sys.stderr)


def _parts(evidence: Evidence) -> list[str]:
    """The quote cut again at its spans."""
    parts, start = [], 0
    for span in evidence.spans:
        parts.append(evidence.quote[start : start + span.end - span.start])
        start += span.end - span.start + 1
    return parts


def _bare(text: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text)).lower()


if __name__ == "__main__":
    sys.exit(main())
