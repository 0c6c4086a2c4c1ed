"""The final answer in what a model wrote, and texts and numbers in one form."""

import re
import unicodedata
from fractions import Fraction

LONGEST = 400
"""Characters of a final answer; what is longer is none."""
MAX_DIGITS = 60
"""Of a number: exact arithmetic on longer ones would cost time for nothing."""

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_STATED = re.compile(r"\banswer(?:\s*[:=]|\s+is\b\s*:?)[ \t]*([^\n]+)", re.IGNORECASE)
_FRACTION = re.compile(r"\\d?frac\s*\{\s*(-?[\d.]+)\s*\}\s*\{\s*([\d.]+)\s*\}")
_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+"
_VALUE = re.compile(rf"({_NUMBER})(?:\s*/\s*({_NUMBER}))?")
_AROUND = " \t\r\n*`_\"'.,;:!?()[]{}"
_MARKS = str.maketrans({"−": "-", "–": "-", "×": "*", "÷": "/", "\u00a0": " ", "⁄": "/"})


def stated_answer(text: str, longest: int = LONGEST) -> str | None:
    r"""What comes last behind `\boxed`, `####`, "answer:" or "answer is"; None: nothing does."""
    found = [match for form in (_BOXED, _HASHES, _STATED) for match in form.finditer(text)]
    if not found:
        return None
    last = max(found, key=lambda match: match.start())
    answer = last.group(1).strip().strip("*`_ ").rstrip(".")
    return answer if 0 < len(answer) <= longest else None


def final_answer(text: str, longest: int = LONGEST) -> str | None:
    """The stated answer, or else the last line that says something."""
    stated = stated_answer(text, longest)
    if stated is not None:
        return stated
    lines = [line.strip(_AROUND) for line in text.splitlines()]
    filled = [line for line in lines if line]
    return filled[-1] if filled and len(filled[-1]) <= longest else None


def normalised(text: str) -> str:
    """A text without case, accents' forms, marks around it, and double spaces."""
    plain = unicodedata.normalize("NFKC", text).translate(_MARKS).casefold()
    return " ".join(plain.strip(_AROUND).split())


def last_number(text: str) -> Fraction | None:
    r"""The last number in a text, exactly: `1,200`, `-3.5`, `3/4`, `\frac{3}{4}`."""
    plain = _FRACTION.sub(r"\1/\2", text.translate(_MARKS))
    found = list(_VALUE.finditer(plain))
    return _value(found[-1]) if found else None


def only_number(text: str) -> Fraction | None:
    """The number that a text is, apart from marks, units of money and a percent sign."""
    plain = _FRACTION.sub(r"\1/\2", text.translate(_MARKS)).strip(_AROUND + "$€£%")
    match = _VALUE.fullmatch(plain) or _VALUE.fullmatch(plain.replace(" ", ""))
    return _value(match) if match else None


def _value(match: re.Match[str]) -> Fraction | None:
    above, below = match.group(1), match.group(2)
    if len(match.group()) > MAX_DIGITS:
        return None
    value = Fraction(above.replace(",", ""))
    if below is None:
        return value
    divisor = Fraction(below.replace(",", ""))
    return value / divisor if divisor else None
