"""What code can check without a model: quotes are the paper's, statements say no more."""

import re

from deepseek.apps.documents.document import Document, Span
from deepseek.apps.papers.analysis import Evidence
from deepseek.apps.papers.candidates import content_words

NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*")
NAME = re.compile(r"\b(?:[A-Z]{2,}\w*|[A-Z][a-z]+[A-Z]\w*|[A-Z][a-z]+(?=-\d))\b")
NEGATION = re.compile(
    r"\b(not|no|never|none|cannot|without|neither|nor|un(able|like))\b|n't\b|不|没|未|无|非",
    re.IGNORECASE,
)
MIN_OVERLAP = 0.6
# Words in which a statement speaks about the paper; they need not stand in the quote.
META = frozenset(
    content_words(
        "paper authors method methods work study model approach system describes described states "
        "proposes proposed addresses addressed presents involves conclude achieves results main"
    )
)
# Judgements that a statement may repeat but not add.
JUDGEMENTS = frozenset(
    content_words(
        "limitation limitations limited weakness drawback shortcoming failure novel first best "
        "superior significant significantly revolutionize crucial"
    )
)


def evidence_at(document: Document, spans: tuple[Span, ...], section: str) -> Evidence:
    """A verbatim quote of the spans, looked up again in the text of the pages it names."""
    quote = document.quote(spans)
    texts = [document.pages[s.page - 1].text for s in spans]
    parts = [text[s.start : s.end] for text, s in zip(texts, spans, strict=True)]
    found = all(
        part.strip() and text.find(part, s.start) == s.start
        for part, text, s in zip(parts, texts, spans, strict=True)
    )
    return Evidence(quote, spans, section, bool(spans) and found and quote == " ".join(parts))


def is_grounded(statement: str, quote: str, title: str = "") -> bool:
    """Whether a statement says no more than the quote that it words.

    Each of its numbers and names occurs in the quote or the title, most of its content words
    do, and it does not bring in a negation of its own. A paraphrase that fails is not shown.
    """
    source = f"{quote} {title}"
    if not numbers_of(statement) <= numbers_of(source):
        return False
    lowered = source.lower()
    if any(name.lower() not in lowered for name in NAME.findall(statement)):
        return False
    if NEGATION.search(statement) and not NEGATION.search(quote):
        return False
    words = {w for w in content_words(statement) if not w[0].isdigit()} - META
    known_words = set(content_words(source))
    if not words & JUDGEMENTS <= known_words:
        return False
    return bool(words) and len(words & known_words) >= MIN_OVERLAP * len(words)


def numbers_of(text: str) -> set[str]:
    """The numbers in a text, by value."""
    return {_plain(n) for n in NUMBER.findall(text)}


def _plain(number: str) -> str:
    """A number without thousands separators and trailing zeros after the point."""
    number = number.replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number
