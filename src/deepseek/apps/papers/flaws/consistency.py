"""Counts that are stated twice and differ by a slip of the pen."""

import re
from collections import defaultdict

from deepseek.apps.papers.flaws.flaw import Flaw, detector
from deepseek.apps.papers.flaws.mismatch import is_misprint
from deepseek.apps.papers.flaws.paper import Line, PaperView

COUNT = re.compile(
    r"(?<![\d.,])(?P<number>\d{1,3}(?:,\d{3})+|\d{3,7}) (?P<what>(?:[a-z][\w-]* ){0,2}"
    r"(?:examples|samples|sentences|questions|pairs|documents|instances|articles|words|tokens"
    r"|images|dialogues|reviews|tweets|passages|paragraphs|entities|relations|annotators|queries"
    r"|utterances|posts|papers|videos|users|patients|participants))\b"
)
COUNT_ZH = re.compile(r"(?P<number>\d{3,7}) ?(?P<what>[条个篇张对名]\w{1,4})")


@detector("inconsistent_numbers")
def inconsistent_numbers(view: PaperView) -> list[Flaw]:
    """The same thing counted twice, with one digit changed or two swapped."""
    counted: dict[str, list[tuple[str, Line]]] = defaultdict(list)
    for line in view.lines:
        if line.role == "related":
            continue
        for pattern in (COUNT, COUNT_ZH):
            for match in pattern.finditer(line.text):
                counted[match["what"].lower()].append((match["number"].replace(",", ""), line))
    found = []
    for what, places in counted.items():
        numbers = {number for number, _ in places}
        if len(numbers) != 2 or len({line.sentence.id for _, line in places}) < 2:
            continue
        a, b = sorted(numbers)
        if not is_misprint(f"{a}.0", f"{b}.0") or a.strip("0") in b or b.strip("0") in a:
            continue
        first = dict(reversed(places))
        if first[a].sentence.id == first[b].sentence.id:
            continue  # two things told apart in one sentence
        found.append(
            Flaw(
                kind="inconsistent_numbers",
                severity="minor",
                statement=f"Are there {int(a):,} or {int(b):,} {what}? The paper says both.",
                confidence=0.6,
                evidence=(first[a].sentence.spans, first[b].sentence.spans),
                question="Do both quotes count the same thing and give different numbers?",
            )
        )
    return found
