"""Sentence boundaries in scientific English and Chinese."""

import re

CANDIDATE = re.compile(r"[.!?]+[\"'”’)\]]*\s+|[。！？；]+[”’」』）)]*\s*")
ABBREVIATIONS = frozenset(
    (
        "al fig figs eq eqs eqn sec secs tab tabs ref refs ch vol no nos pp approx resp cf vs "
        "viz ca e.g i.e etc dr prof mr mrs ms st inc ltd corp dept univ jan feb mar apr jun "
        "jul aug sep sept oct nov dec def thm lem prop cor alg app appx w.r.t i.i.d a.k.a s.t "
        "ph.d u.s u.k"
    ).split()
)
LAST_WORD = re.compile(r"([A-Za-z][A-Za-z.]*)$")
# These stand at the end of a sentence as often as inside one: the next word decides.
SOMETIMES = frozenset({"etc", "al", "no"})
MAX_CHARACTERS = 1_200


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence, white space around it left out.

    Every character that is no white space belongs to exactly one sentence.
    """
    bounds = []
    start = 0
    for match in CANDIDATE.finditer(text):
        if _ends(text, start, match):
            bounds.append((start, match.end()))
            start = match.end()
    bounds.append((start, len(text)))
    return [_trimmed(text, a, b) for a, b in bounds if text[a:b].strip()]


def _ends(text: str, start: int, match: "re.Match[str]") -> bool:
    mark = match.group()[0]
    if mark not in ".!?":
        return True
    following = text[match.end() : match.end() + 2]
    if not following:
        return True
    if following[0].islower():
        return False
    if mark in "!?":
        return True
    word = LAST_WORD.search(text[max(start, match.start() - 20) : match.start()])
    if word is None:
        # "3.5 days", "[12]. The": a number before the point ends a sentence if a word follows,
        # unless the number is the whole of it so far ("2. Method").
        return len(text[start : match.start()].strip()) > 3
    name = word[1].lower()
    if len(name) == 1 and word[1].isupper() and not following[0].isspace():
        return False  # an initial: "J. Smith"
    if name in SOMETIMES:
        return following[0].isupper() and not following[0].isdigit()
    return name not in ABBREVIATIONS


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
