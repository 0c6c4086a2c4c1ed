"""What the contribution scorer sees of a sentence: a few dozen readable features.

A paper is a list of `Passage`s in reading order. The same features come from a PDF, from plain
text and from the tokenised text of a public corpus.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.apps.documents.document import Document, SectionRole
from deepseek.apps.papers.cues import cues_of, heading_cues_of, plain

CONTEXTS = ("front", "intro", "related", "method", "setup", "results", "end")
_CONTEXT_OF_ROLE: dict[SectionRole, str] = {
    "front": "front",
    "abstract": "front",
    "introduction": "intro",
    "related": "related",
    "method": "method",
    "other": "method",
    "experiments": "setup",
    "results": "results",
    "ablation": "results",
    "limitations": "end",
    "conclusion": "end",
    "references": "end",
    "appendix": "end",
}
_STOP_WORDS = frozenset(
    "a an the of for in on with and to by from using via at as is are towards toward into".split()
)
_NUMBER = re.compile(r"(?<![\w.])\d+(\.\d+)?(?!\w)")
_WORD = re.compile(r"[a-z][a-z0-9+-]{2,}|[\u4e00-\u9fff]{2}")
_NAME = re.compile(r"\b(?:[A-Z]{2,}[A-Za-z0-9]*|[A-Z][a-z0-9]+[A-Z]\w*)\b")


@dataclass(frozen=True, slots=True)
class Passage:
    """A sentence (or heading) with the section in which it stands."""

    text: str
    heading: str
    """Title of the section."""
    role: SectionRole
    is_heading: bool = False


@dataclass(frozen=True, slots=True)
class PaperFacts:
    """What is known of the whole paper before its sentences are looked at."""

    title_words: frozenset[str]
    own_name: str
    """The name that the abstract and title use most ("BERT"), or nothing."""


def passages_of(document: Document) -> list[Passage]:
    """The sentences of a document as passages, in the order of `document.sentences`."""
    passages = []
    for sentence in document.sentences:
        section = document.section_of(sentence)
        heading = document.kind_of(sentence) in ("heading", "title")
        passages.append(Passage(document.text_of(sentence), section.title, section.role, heading))
    return passages


def facts_of(title: str, passages: Sequence[Passage]) -> PaperFacts:
    """Title words and the proposed system's name."""
    words = frozenset(w for w in _WORD.findall(plain(title)) if w not in _STOP_WORDS)
    names = Counter(_NAME.findall(title))
    for passage in passages:
        if passage.role in ("abstract", "introduction") and not passage.is_heading:
            names.update(set(_NAME.findall(passage.text)) if passage.role == "abstract" else ())
    frequent = [(n, name) for name, n in names.items() if n >= 2]
    return PaperFacts(words, max(frequent)[1] if frequent else "")


def features_of(title: str, passages: Sequence[Passage]) -> list[dict[str, float]]:
    """Features of every passage: name to value; absent means zero."""
    facts = facts_of(title, passages)
    cues = [cues_of(p.text) for p in passages]
    headings = {h: heading_cues_of(h) for h in {p.heading for p in passages}}
    places = _places(passages)
    triggers = _triggers(passages, cues)
    rows = []
    for i, passage in enumerate(passages):
        row = _shape(passage, facts)
        context = _CONTEXT_OF_ROLE[passage.role]
        row[f"role={passage.role}"] = 1.0
        row.update({f"heading~{cue}": 1.0 for cue in headings[passage.heading]})
        for cue in cues[i]:
            row[f"cue:{cue}"] = 1.0
            row[f"cue:{cue}@{context}"] = 1.0
        row.update(places[i])
        row.update(triggers[i])
        for offset, name in ((-1, "prev"), (1, "next")):
            if 0 <= i + offset < len(passages):
                near = cues[i + offset]
                row.update({f"{name}:{c}": 1.0 for c in near & _NEIGHBOUR_CUES})
        rows.append(row)
    return rows


_NEIGHBOUR_CUES = frozenset(
    "we_propose hyper_parameter outperforms achieves improves percent baseline formal we_observe "
    "ablation contribution example set_to optimizer said_cited uses_a table_figure".split()
)


def _shape(passage: Passage, facts: PaperFacts) -> dict[str, float]:
    """Length, numbers, names, overlap with the title: what is seen without its neighbours."""
    text = passage.text
    words = text.split()
    n = len(words) + 0.6 * sum("\u4e00" <= c <= "\u9fff" for c in text)
    row = {f"length={_bin(n, (3, 6, 10, 16, 25, 40, 60))}": 1.0}
    numbers = len(_NUMBER.findall(text))
    row[f"numbers={_bin(numbers, (0, 1, 2, 4, 8))}"] = 1.0
    content = set(_WORD.findall(plain(text)))
    overlap = len(content & facts.title_words) / max(1, len(facts.title_words))
    row["title_overlap"] = overlap
    row["title_overlap_high"] = float(overlap >= 0.5)
    row["own_name"] = float(bool(facts.own_name) and facts.own_name in text)
    row["is_heading"] = float(passage.is_heading)
    row["ends_as_sentence"] = float(text.rstrip().endswith((".", "。", "!", "！")))
    row["ends_with_colon"] = float(text.rstrip().endswith((":", "：")))
    row["starts_lower"] = float(text[:1].islower())
    single = sum(len(w) == 1 and not w.isalnum() or w in "ijkxyzhtw" for w in words)
    row[f"symbols={_bin(single / max(1, len(words)), (0.05, 0.12, 0.2, 0.35))}"] = 1.0
    row["capitals"] = min(1.0, sum(w[:1].isupper() for w in words[1:]) / max(1, len(words)) * 2)
    row["bracketed_name"] = float(bool(re.search(r"\(\s?[A-Z][A-Za-z0-9-]+\s?\)", text)))
    row["our"] = float(bool(re.search(r"\b([Ww]e|[Oo]ur|us)\b|我们|本文", text)))
    row["name_colon"] = float(bool(re.match(r"[^:]{2,50}:\s", text)))
    return row


def _places(passages: Sequence[Passage]) -> list[dict[str, float]]:
    """Where a passage stands in the paper and in its section."""
    n = len(passages)
    first: dict[int, int] = {}
    section, sections = -1, []
    for i, passage in enumerate(passages):
        if i == 0 or passage.heading != passages[i - 1].heading:
            section += 1
            first[section] = i
        sections.append(section)
    sizes = Counter(sections)
    rows = []
    for i, passage in enumerate(passages):
        inside, size = i - first[sections[i]], sizes[sections[i]]
        context = _CONTEXT_OF_ROLE[passage.role]
        rows.append(
            {
                f"in_paper={_bin(i / max(1, n), (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9))}": 1.0,
                f"in_section={_bin(inside, (0, 1, 2, 3, 5, 8, 14, 22))}@{context}": 1.0,
                f"from_end={_bin(size - inside, (1, 2, 3, 5, 8))}@{context}": 1.0,
                f"section_size={_bin(size, (2, 5, 12, 25, 50))}@{context}": 1.0,
            }
        )
    return rows


def _triggers(passages: Sequence[Passage], cues: Sequence[frozenset[str]]) -> list[dict[str, float]]:
    """How far behind the last announcement ("we propose") of the same section a passage is."""
    rows: list[dict[str, float]] = []
    since: dict[str, int | None] = dict.fromkeys(_TRIGGERS)
    heading, proposed = "", 0
    for passage, found in zip(passages, cues, strict=True):
        context = _CONTEXT_OF_ROLE[passage.role]
        if passage.heading != heading:
            heading, since = passage.heading, dict.fromkeys(_TRIGGERS)
        row = {}
        for name, wanted in _TRIGGERS.items():
            last = since[name]
            if last is not None:
                row[f"since_{name}={_bin(last, (1, 2, 3, 5, 8))}@{context}"] = 1.0
            hit = bool(wanted & found)
            since[name] = 1 if hit else (last + 1 if last is not None else None)
        if context == "method":
            row["proposed_in_intro"] = float(proposed > 0)
        if context == "intro" and "we_propose" in found:
            proposed += 1
        rows.append(row)
    return rows


_TRIGGERS = {
    "proposal": frozenset({"we_propose", "in_this_paper", "to_this_end"}),
    "contribution": frozenset({"contribution"}),
    "parameters": frozenset({"hyper_parameter", "optimizer", "hardware"}),
    "result": frozenset({"outperforms", "achieves", "improves"}),
}


def _bin(value: float, edges: Sequence[float]) -> str:
    """The name of the bin, by its upper edge."""
    for edge in edges:
        if value <= edge:
            return f"{edge:g}"
    return "more"
