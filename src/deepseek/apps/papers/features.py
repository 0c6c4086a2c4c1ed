"""What the scorer sees of a sentence: its place, cue phrases, numbers, and its plain words.

All of it is the same for a parsed PDF and for tokenised text with headings ("state - of - the -
art", citations cut out), so that weights fitted on one hold for the other.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.apps.documents.document import Document, SectionRole
from deepseek.apps.papers.cues import HEADING_CUES, HEADINGS, PATTERNS

NUMBER = re.compile(r"\d+(?: ?[.,] ?\d+)*")
DECIMAL = re.compile(r"\d+ ?\. ?\d+|\d+ ?%")
# What a text with its citations and numbered references cut out has lost.
CITATION = re.compile(
    r"\[[\d ,;–-]+\]|\([^()]{0,80}\b(?:19|20)\d\d[a-z]? ?\)|\bet al\b\.?"
    r"|\b(?:tables?|tab\.|figures?|fig\.|sections?|sec\.) ?\d+(?: ?[.–-] ?\d+)?|[表图] ?\d+",
    re.IGNORECASE,
)
TOKEN = re.compile(r"[a-z]+|\d+(?: ?\. ?\d+)?|[%?:()=]|[\u4e00-\u9fff]")
WORD = re.compile(r"[a-z]{4,}|[\u4e00-\u9fff]{2}")
# Names that authors give their own systems: "DCR", "RankGAN", "BiDAF", "GA-2".
NAME = re.compile(r"\b(?=\w*[A-Z]\w*[A-Z])[A-Za-z][\w+]{1,19}\b")
OWNING = re.compile(
    r"\b(we (\w+ )?(propose|present|introduce|develop|describe|call|name|term)|our|called|named"
    r"|dubbed|proposed|this paper|this work)\b|提出|称为|我们的",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Item:
    """A sentence or heading with its place."""

    text: str
    role: SectionRole
    heading: str
    """Title of its section."""
    index: int
    """Place in its section, from 0."""
    of: int
    """Sentences in its section."""
    is_heading: bool = False
    is_caption: bool = False
    """Stands beside the running text and is not counted in its section."""


def items_of(document: Document) -> list[Item]:
    """The document's sentences as items, in order; one for each sentence."""
    places = [
        (document.blocks[s.block].section, document.kind_of(s) == "caption")
        for s in document.sentences
    ]
    sizes = Counter(section for section, is_caption in places if not is_caption)
    seen: Counter[int] = Counter()
    items = []
    for sentence, (index, is_caption) in zip(document.sentences, places, strict=True):
        section = document.sections[index]
        text = document.text_of(sentence)
        place = (section.role, section.title, seen[index], sizes[index])
        items.append(Item(text, *place, is_caption=is_caption))
        seen[index] += not is_caption
    return items


def features(items: Sequence[Item], title: str = "") -> list[dict[str, float]]:
    """Named numeric features of each item: section, place, cue phrases, numbers, own names."""
    names = own_names(items, title)
    title_words = _words(title)
    last = max(len(items) - 1, 1)
    return [
        _place(item, i / last) | _wording(item, names, title_words) for i, item in enumerate(items)
    ]


def words(item: Item) -> list[str]:
    """Words, pairs of neighbouring words and words of the section's title (`h:…`).

    Citations go, numbers become classes: what is left is how authors write, whatever the topic.
    """
    plain = _tokens(item.text)
    edged = ["^", *plain, "$"]
    pairs = [f"{a}_{b}" for a, b in itertools.pairwise(edged)]
    return plain + pairs + [f"h:{word}" for word in _tokens(item.heading)]


def own_names(items: Sequence[Item], title: str = "") -> frozenset[str]:
    """What the authors call their system: names in the title, or often named as their own."""
    heading, colon, _ = title.partition(":")
    found = set(NAME.findall(heading)) if colon else set()
    claims: Counter[str] = Counter()
    for item in items:
        if item.role in ("abstract", "introduction", "conclusion") and OWNING.search(item.text):
            claims.update(set(NAME.findall(item.text)))
    return frozenset(found | {name for name, count in claims.most_common(2) if count >= 2})


def _place(item: Item, position: float) -> dict[str, float]:
    zone = _zone(item.role)
    row = {f"role:{item.role}": 1.0}
    row["place"] = row[f"place@{zone}"] = item.index / max(item.of, 1)
    row["position"] = row[f"position@{zone}"] = position
    row["early"] = float(position < 0.15)
    row["first"] = row[f"first@{zone}"] = float(item.index == 0)
    row["second"] = float(item.index == 1)
    row["last"] = float(item.index == item.of - 1)
    row["section_size"] = min(item.of, 40) / 40
    row["is_heading"] = float(item.is_heading)
    heading = item.heading.lower()
    for name in HEADING_CUES:
        if PATTERNS[name].search(heading):
            row[f"heading:{name}"] = 1.0
    for name, pattern in HEADINGS.items():
        if pattern.search(heading):
            row[f"heading:{name}"] = 1.0
    return row


def _wording(item: Item, names: frozenset[str], title_words: set[str]) -> dict[str, float]:
    text, zone = item.text, _zone(item.role)
    row: dict[str, float] = {}
    for name, pattern in PATTERNS.items():
        if pattern.search(text):
            row[name] = row[f"{name}@{zone}"] = 1.0
    row["numbers"] = min(len(NUMBER.findall(text)), 5) / 5
    row["decimals"] = row[f"decimals@{zone}"] = min(len(DECIMAL.findall(text)), 4) / 4
    length = len(text.split())
    row["short"], row["long"] = float(length < 7), float(length > 40)
    row["medium"] = float(12 <= length <= 30)
    row["title_overlap"] = row[f"title_overlap@{zone}"] = (
        min(len(_words(text) & title_words), 4) / 4
    )
    if names and not names.isdisjoint(NAME.findall(text)):
        row["own_name"] = row[f"own_name@{zone}"] = 1.0
    row["colon_end"] = float(text.rstrip().endswith((":", "：")))
    return row


def _zone(role: SectionRole) -> str:
    """Roles grouped to where the same cue means the same."""
    if role in ("abstract", "introduction", "front"):
        return "opening"
    if role in ("experiments", "results", "ablation", "limitations"):
        return "evaluation"
    return "method" if role in ("method", "other") else "rest"


def _tokens(text: str) -> list[str]:
    tokens = TOKEN.findall(CITATION.sub(" ", text).lower())
    return [("#.#" if "." in t else "#") if t[0].isdigit() else t for t in tokens]


def _words(text: str) -> set[str]:
    return set(WORD.findall(text.lower()))
