"""What an answer on the whole paper adds to what sentences told."""

from collections.abc import Sequence
from dataclasses import replace

from deepseek.apps.papers.analysis import Finding
from deepseek.apps.papers.extraction import MAX_EVIDENCE
from deepseek.apps.papers.writer import shortened


def joined(known: Sequence[Finding], answer: Finding) -> tuple[list[Finding], Finding | None]:
    """A task's findings with an answer on the whole paper.

    It takes the place of "not found"; it words a finding with the same quote for which there was
    no wording yet; it says nothing new if that finding has one; else it comes last.

    Returns:
        The findings, and the one that is new or worded anew; None: the answer says nothing new.
    """
    quoted = {evidence.spans for evidence in answer.evidence}
    for place, finding in enumerate(known):
        if finding.is_missing or finding.evidence[0].spans not in quoted:
            continue
        if finding.kind != answer.kind or not _is_unworded(finding):
            return list(known), None
        worded = _worded(finding, answer)
        return [*known[:place], worded, *known[place + 1 :]], worded
    found = [f for f in known if not (f.is_missing and f.kind == f"no_{answer.kind}")]
    return [*found, answer], answer


def _is_unworded(finding: Finding) -> bool:
    return finding.statement == shortened(finding.evidence[0].quote)


def _worded(finding: Finding, answer: Finding) -> Finding:
    evidence = {e.spans: e for f in (finding, answer) for e in f.evidence}
    return replace(
        finding,
        statement=answer.statement,
        # What carries the answer must be among the quotes.
        evidence=tuple(evidence.values())[: MAX_EVIDENCE + len(answer.evidence) - 1],
        confidence=max(finding.confidence, answer.confidence),
        in_view="paper",
    )
