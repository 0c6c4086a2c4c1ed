"""An analysis as Markdown."""

import re

from deepseek.apps.papers.analysis import Evidence, Finding, PaperAnalysis
from deepseek.apps.papers.report.labels import LABELS, page_label, reading_label

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|])")


def markdown_report(analysis: PaperAnalysis) -> str:
    """Findings under their tasks, each with its quotes, pages and sections."""
    words = LABELS[analysis.language]
    pages = f"{analysis.n_pages} {words['pages']}"
    lines = [
        f"# {_safe(analysis.title or analysis.source)}",
        "",
        f"{words['source']}: {_safe(analysis.source)} · {pages} · "
        f"{words['model']}: {_safe(analysis.model)}",
        "",
    ]
    if analysis.reading is not None:
        lines += [reading_label(analysis.reading, analysis.language), ""]
    for warning in analysis.warnings:
        lines += [f"> {_safe(warning)}", ""]
    for task in analysis.tasks:
        lines += [f"## {_safe(task.title)}", ""]
        for finding in task.findings:
            lines += _finding(finding, analysis.language)
        if task.note:
            lines += [f"*{_safe(task.note)}*", ""]
    return "\n".join([*lines, "---", "", words["about"], ""])


def _finding(finding: Finding, language: str) -> list[str]:
    words = LABELS[language]
    mark = "" if finding.severity == "info" else f" · {words[finding.severity]}"
    mark += f" · {words['in_paper']}" if finding.in_view == "paper" else ""
    lines = [
        f"### {_safe(finding.title)}",
        "",
        f"{_safe(finding.statement)} ({words['confidence']} {finding.confidence:.0%}{mark})",
        "",
    ]
    if finding.searched:
        lines += [f"{words['searched']}: {_safe(finding.searched)}", ""]
    for evidence in finding.evidence:
        lines += [f"> “{_safe(' '.join(evidence.quote.split()))}”", ">"]
        lines += [f"> — {_place(evidence, finding, language)}", ""]
    return lines


def _place(evidence: Evidence, finding: Finding, language: str) -> str:
    words = LABELS[language]
    parts = [page_label(evidence.page, language)]
    if evidence.section:
        parts.append(_safe(evidence.section))
    if finding.is_missing:
        parts.append(words["nearest"])
    if not evidence.verified:
        parts.append(f"**{words['unverified']}**")
    return ", ".join(parts)


def _safe(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
