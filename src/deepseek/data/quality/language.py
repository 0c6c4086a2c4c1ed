"""Which language a text is in, natural or programming.

Natural languages are told by py3langid (97 of them); code by what its lines look like.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from deepseek.core.errors import MissingDependencyError
from deepseek.data.quality.document import Document
from deepseek.data.quality.operator import KEEP, Context, Decision, Operator, Scores, require

PIECE = 1_000
"""Characters that are looked at, from the beginning and from the middle."""
CODE = "code"
_CODE_LINE = re.compile(
    r"[;{}]\s*$|[\])]\s*;?\s*$(?<=[;{(,])|^\s*(?:[)\]}]|\}?\s*else\b.*|@\w|#\s*(?:include|define|"
    r"if|endif|pragma)\b|//|/\*|\*/|<\?|</?\w+[^>]*>\s*$)"
    r"|^\s*(?:(?:async\s+)?def|class|from|import|return|raise|elif|try:|except\b.*:|finally:|with|"
    r"for|while|if|else:|func|fn|let|const|var|public|private|protected|static|void|int|package|use|"
    r"struct|enum|impl|namespace|template|typedef|export|function|end|local|yield|assert|pass|"
    r"break|continue)\b(?=.*(?:[:;{(]\s*$|[=(){}\[\].]|import\b|^\s*(?:pass|break|continue|end)$))"
    r"|^\s*[\w.\[\]\"'*&>-]+\s*(?:[-+*/|&^%]?=|:=|\+\+|--)(?!=)\s*\S|\w\(.*\)\s*[:;,)]*\s*$"
    r"|^\s*['\"]?[\w-]+['\"]?\s*:\s*.*,\s*$"
)
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA = re.compile("[\u3040-\u30ff]")
_LETTERS = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class LanguageSettings:
    """What stays."""

    keep: list[str] = field(default_factory=lambda: ["en", "zh", CODE])
    """ISO 639-1 codes, and `code`."""
    least: float = 0.5
    """Smallest probability of a natural language."""
    code: float = 0.5
    """Share of lines that look like code from which a text is code."""


class Language(Operator):
    """Code by its lines, Chinese by its script, everything else by py3langid."""

    name = "language"
    Settings = LanguageSettings

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        require(bool(settings.keep), "operators.language.keep is empty", 'keep = ["en", "zh"]')
        known = {*_identifier().labels, CODE}
        for language in settings.keep:
            require(
                language in known,
                f"operators.language.keep names {language!r}",
                f"known: {', '.join(sorted(known))}",
            )
        self._names: list[str] = sorted(known)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self._names)}

    def score(self, batch: Sequence[Document]) -> Scores:
        """The share of lines that are code, the language's probability, and its number."""
        found = [self._language(document.text) for document in batch]
        names, probabilities, shares = zip(*found, strict=True)
        return {
            "code_lines": np.array(shares, np.float64),
            "probability": np.array(probabilities, np.float64),
            "language": np.array([self._places[name] for name in names], np.int64),
        }

    def decide(self, batch: Sequence[Document], scores: Scores) -> list[Decision]:
        """Drop other languages, and what is none for sure."""
        decisions = []
        pairs = zip(scores["language"].tolist(), scores["probability"].tolist(), strict=True)
        for number, probability in pairs:
            name = self._names[number]
            if name not in self.settings.keep:
                decisions.append(Decision(f"language {name}: {probability:.3f}"))
            elif probability < self.settings.least:
                reason = f"language unclear: {name} {probability:.3f} is below"
                decisions.append(Decision(f"{reason} {self.settings.least:g}"))
            else:
                decisions.append(KEEP)
        return decisions

    def _language(self, text: str) -> tuple[str, float, float]:
        code = code_share(text)
        if code >= self.settings.code:
            return CODE, code, code
        middle = len(text) // 2
        piece = text if len(text) <= 2 * PIECE else text[:PIECE] + text[middle : middle + PIECE]
        n_letters = len(_LETTERS.findall(piece))
        n_han = len(_HAN.findall(piece))
        if n_han > 0.3 * n_letters and len(_KANA.findall(piece)) < 0.05 * n_letters:
            return "zh", n_han / n_letters, code
        name, probability = _identifier().classify(piece)
        return str(name), float(probability), code


def code_share(text: str) -> float:
    """The share of lines, of the first ones and those from the middle, that look like code."""
    lines = [line for line in text[: 2 * PIECE].splitlines() if line.strip()]
    if len(text) > 4 * PIECE:
        middle = len(text) // 2
        lines += [line for line in text[middle : middle + PIECE].splitlines() if line.strip()]
    return sum(bool(_CODE_LINE.search(line[:200])) for line in lines) / max(1, len(lines))


def _identifier() -> Any:
    global _found
    if _found is None:
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError:
            raise MissingDependencyError(
                "telling languages needs py3langid, which is not installed",
                "pip install 'deepseek[data]'",
            ) from None
        _found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return _found


_found: Any = None
