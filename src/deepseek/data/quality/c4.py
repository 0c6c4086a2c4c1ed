"""C4's rules (JMLR 21/140): lines that are no sentences go, and texts of which little is left."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepseek.data.quality.document import Document
from deepseek.data.quality.heuristics import stacked
from deepseek.data.quality.operator import KEEP, Decision, Operator, Scores
from deepseek.data.quality.words import sentence_count

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_ENDS = (".", "?", "!", '"', "'")
_POLICY = re.compile(
    "terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"
)


@dataclass(frozen=True, slots=True)
class C4Settings:
    """Which rules hold; -1 switches a limit off."""

    min_sentences: int = 5
    min_line_words: int = 3
    max_word_length: int = 1_000
    remove_citations: bool = True
    remove_unended: bool = True
    """Lines that end with none of . ? ! \" ' or with an ellipsis."""
    remove_javascript: bool = True
    remove_policy: bool = True
    drop_lorem_ipsum: bool = True
    drop_curly_bracket: bool = True


class C4(Operator):
    """Cleans a text line by line, and drops it if too few sentences are left."""

    name = "c4"
    Settings = C4Settings

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._texts: dict[str, tuple[str, str]] = {}

    def score(self, batch: Sequence[Document]) -> Scores:
        """Sentences and the share of characters that are left."""
        self._texts.clear()
        return stacked([self._score(document.text) for document in batch])

    def _score(self, text: str) -> dict[str, float]:
        kept, n_sentences, flaw = self._cleaned(text)
        self._texts[text] = kept, flaw
        return {
            "sentences": float(n_sentences) if not flaw else np.nan,
            "left": len(kept) / max(1, len(text)) if not flaw else np.nan,
        }

    def decide(self, batch: Sequence[Document], scores: Scores) -> list[Decision]:
        """Drop, or go on with what is left."""
        least = self.settings.min_sentences
        decisions = []
        for document, n_sentences in zip(batch, scores["sentences"], strict=True):
            text = document.text
            kept, flaw = self._texts.get(text) or self._cleaned(text)[::2]
            if flaw:
                decisions.append(Decision(flaw))
            elif n_sentences < least:
                decisions.append(Decision(f"sentences {n_sentences:g} is below {least}"))
            elif kept == text:
                decisions.append(KEEP)
            else:
                n_lines = len(text.splitlines()) - len(kept.splitlines())
                edit = f"{n_lines} lines removed" if n_lines else "lines trimmed"
                decisions.append(Decision(text=kept, edit=edit))
        return decisions

    def _cleaned(self, text: str) -> tuple[str, int, str]:
        """What is left, its sentences, and what makes the whole text unfit."""
        settings = self.settings
        n_sentences, kept = 0, []
        for full_line in text.splitlines():
            line = full_line.strip()
            words = line.split()
            most = settings.max_word_length
            if most != -1 and len(line) > most and any(len(word) > most for word in words):
                continue
            if settings.remove_citations and "[" in line:
                line = _CITATION.sub("", line)
            unended = not line.endswith(_ENDS) or line.endswith("...")
            if (settings.remove_unended and unended) or len(words) < settings.min_line_words:
                continue
            lower = line.lower()
            if settings.drop_lorem_ipsum and "lorem ipsum" in lower:
                return "", 0, "it has lorem ipsum"
            if settings.remove_javascript and "javascript" in lower:
                continue
            if settings.drop_curly_bracket and "{" in line:
                return "", 0, "it has a curly bracket"
            if settings.remove_policy and _POLICY.search(lower):
                continue
            n_sentences += sentence_count(line)
            kept.append(line)
        return "\n".join(kept).strip(), n_sentences, ""
