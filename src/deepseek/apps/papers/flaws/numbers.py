"""Numbers in text: their value, how precisely they are written, and what they are said to be."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

NUMBER = re.compile(
    r"(?<![\w.,/^_])(?P<sign>[+−–-]?)(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+)"
    r"(?![\w/]|[.,]\d)(?P<percent>\s?[%％])?"
)
# What stands right before or after a number that is no result.
SETTING = re.compile(
    r"\bbias\b|\btimes\b|\bbits\b|deviation"
    r"|learning rate|dropout|momentum|decay|batch|margin|threshold|epsilon|beta|weight|initial"
    r"|probabilit|clipp|temperature|dimension|hidden|layers?\b|epochs?|steps?\b|uniform|kappa"
    r"|version|p\s*[<=≤]|alpha|gamma|lambda|λ|α|β|γ|ϵ|ε|σ|tokens?\b|words?\b|seconds|hours|minutes"
    r"|\bGB\b|parameters|学习率|批|维|轮",
    re.IGNORECASE,
)
REFERENCE = re.compile(
    r"(§|section|sec\.|figure|fig\.|table|tab\.|equation|eq\.?|chapter|appendix|step|algorithm"
    r"|theorem|lemma|python|pytorch|tensorflow|wordnet|corenlp|squad|nltk|cuda|spacy|version|第)"
    r"\s*\(?v?$",
    re.IGNORECASE,
)
GAIN_BEFORE = re.compile(
    r"(\bby|(improve|gain|increase|decrease|drop|reduc|decline|increment|boost|difference|margin"
    r"|提高|提升|下降|降低|增加)\w*(\s+\w+){0,3}\s+(of|by|about)?"
    r"|提高了?|提升了?|下降了?|降低了?|增加了?)"
    r"(\s*(about|around|roughly|approximately|nearly|almost|over|more than|at least|up to|only"
    r"|an?|absolute|another|average|of|as much as|的|约))*\s*[~∼≈+]?$",
    re.IGNORECASE,
)
GAIN_AFTER = re.compile(
    r"^\s*(%|％|percent(age)?|absolute|relative|points?|pp\b|BLEU|F1|ROUGE|accuracy|EM|MRR@10|MRR"
    r"|MAP"
    r"|LAS|UAS|个百分点|\(absolute\)|-|\s)*\s*"
    r"(points?|improve|gain|increase|increment|decrease|drop|reduc|boost|better|higher|lower|worse"
    r"|more accurate|个百分点|improvement)",
    re.IGNORECASE,
)
# "by 1.80% and 1.33% for accuracy and …", "improvements on accuracy are …"
GAINS_LISTED = re.compile(
    r"(\bby \d[\d.]*\s?%?( points?)?|(improvement|gain|increase|increment|drop)s?( \w+){0,4} (is"
    r"|are|was|were))"
    r"[^.;:()]{0,12}(,|\band|\bfor\b)[^.;:()]{0,40}$",
    re.IGNORECASE,
)
CHAIN = re.compile(r"[\d.,%％\s]+(and|or|,|、|和|及|to|/|[-–−])\s*$", re.IGNORECASE)

Use = Literal["score", "gain", "other"]


@dataclass(frozen=True, slots=True)
class Number:
    """A number as written, with its place in the text it was found in."""

    value: float
    text: str
    decimals: int
    start: int
    end: int
    is_percent: bool

    def equals(self, value: float) -> bool:
        """Whether `value` is this number, rounded or cut to its decimals."""
        unit = 10.0**-self.decimals
        return abs(value - self.value) <= 0.5 * unit + 1e-9 or (
            self.decimals > 0 and 0 <= value - self.value < unit - 1e-9
        )


def numbers_in(text: str) -> Iterator[Number]:
    """The numbers of a text, in order; not those inside words, names or dates."""
    for match in NUMBER.finditer(text):
        digits = match["digits"]
        plain = digits.replace(",", "")
        decimals = len(plain.partition(".")[2])
        sign = -1.0 if match["sign"] in ("-", "−") and _is_sign(text, match.start()) else 1.0
        start = match.start("digits")
        yield Number(
            sign * float(plain),
            digits,
            decimals,
            start,
            match.end("digits"),
            bool(match["percent"]),
        )


def _is_sign(text: str, at: int) -> bool:
    """Whether the dash before a number is a minus and not a range or a hyphen."""
    return at == 0 or text[at - 1].isspace() or text[at - 1] in "([|"


def _is_gain(before: str, after: str) -> bool:
    return bool(
        GAIN_BEFORE.search(before) or GAIN_AFTER.match(after) or GAINS_LISTED.search(before)
    )


def use_of(text: str, number: Number) -> Use:
    """Whether a number in a sentence is a result, a difference of results, or something else."""
    before, after = text[max(0, number.start - 70) : number.start], text[number.end :][:45]
    if REFERENCE.search(before[-22:]) or re.match(r"\s*[)\]]?\s*(et al|\(\d{4})", after):
        return "other"
    if number.decimals == 0 and not number.is_percent and not re.match(r"\s*points?\b", after):
        return "other"
    while chain := CHAIN.search(before):
        before = before[: chain.start()]
    if text[max(0, number.start - 2) : number.start].strip() == "+" or _is_gain(before, after):
        return "gain"
    if SETTING.search(before[-28:]) or SETTING.search(after[:22]):
        return "other"
    return "score" if number.decimals or number.is_percent else "other"
