"""Questions about whose answers a model is unsure, and for which nothing says what is right.

For documents that have a question beside their text: what a model's answers mean is compared
(`deepseek.data.entropy`). Where the answer is known, a question that a model is unsure of is a hard
case and stays; where it is not, nobody can tell whether the text is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from deepseek.core.llm import LanguageModel
from deepseek.data.entropy.attempts import attempt
from deepseek.data.entropy.sampling import Sampling
from deepseek.data.quality.bits_per_byte import opened
from deepseek.data.quality.document import Document
from deepseek.data.quality.operator import KEEP, Context, Decision, Operator, Scores, require
from deepseek.data.verifiers.problem import Problem

COMPARED = ("number", "choice", "text")
"""Ways of comparing answers that need nothing but the answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticEntropySettings:
    """Which model answers, and when a question is dropped."""

    model: str = ""
    """A name or a path, such as smollm2-135m."""
    by: str = "text"
    """How answers are compared: number, choice or text."""
    question_key: str = "question"
    """Of the document's metadata; documents without it are not judged."""
    answer_key: str = "answer"
    most: float = 0.7
    """Entropy as a share of the largest possible, above which a question without a known answer
    is dropped."""
    drop_solved: bool = False
    """Drop what the model is sure of and right about, too: it teaches nothing."""
    samples: int = 8
    first: int = 4
    tolerance: float = 0.17
    max_tokens: int = 64
    seed: int = 0


class SemanticEntropy(Operator):
    """Scores `entropy` (0 to 1), `pass_rate` and `greedy_is_wrong`; NaN where they do not apply."""

    name = "semantic_entropy"
    Settings = SemanticEntropySettings
    in_pool = False

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        require(bool(settings.model), f"operators.{self.name} names no model", 'model = "…"')
        require(
            settings.by in COMPARED,
            f"operators.{self.name}.by is {settings.by!r}",
            f"one of {', '.join(COMPARED)}",
        )
        require(0 <= settings.most <= 1, f"operators.{self.name}.most is {settings.most}", "0 to 1")
        self._sampling = Sampling(
            samples=settings.samples,
            first=settings.first,
            tolerance=settings.tolerance,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
        )

    @cached_property
    def _model(self) -> LanguageModel:
        return opened(self.context, self.settings.model, self.name)

    def score(self, batch: Sequence[Document]) -> Scores:
        """A question's answers follow from its number in the corpus, whatever else is there."""
        found = {key: np.full(len(batch), np.nan) for key in ("entropy", "pass_rate")}
        found["greedy_is_wrong"] = np.full(len(batch), np.nan)
        asked = [(i, p) for i, d in enumerate(batch) if (p := self._problem(d)) is not None]
        if not asked:
            return found
        attempts = attempt(self._model, [p for _, p in asked], self._sampling, "direct")
        for (i, problem), one in zip(asked, attempts, strict=True):
            found["entropy"][i] = one.signals["normalised"]
            if problem.answer:
                found["pass_rate"][i] = one.pass_rate
                found["greedy_is_wrong"][i] = float(not one.greedy.is_right)
        return found

    def decide(self, batch: Sequence[Document], scores: Scores) -> list[Decision]:
        """By entropy where no answer is known, else by whether there is anything to learn."""
        rows = zip(scores["entropy"].tolist(), scores["pass_rate"].tolist(), strict=True)
        return [self._decision(entropy, pass_rate) for entropy, pass_rate in rows]

    def _decision(self, entropy: float, pass_rate: float) -> Decision:
        settings = self.settings
        if np.isnan(entropy):
            return KEEP
        if np.isnan(pass_rate):
            if entropy > settings.most:
                said = f"semantic entropy {entropy:.3g} is above {settings.most:g}"
                return Decision(f"{said}, and no answer is known")
            return KEEP
        if settings.drop_solved and pass_rate == 1.0:
            return Decision("all of the model's answers are right")
        return KEEP

    def _problem(self, document: Document) -> Problem | None:
        question = document.metadata.get(self.settings.question_key)
        answer = document.metadata.get(self.settings.answer_key, "")
        if not isinstance(question, str) or not question.strip():
            return None
        known = isinstance(answer, str | int | float) and not isinstance(answer, bool)
        return Problem(
            question=question,
            answer=str(answer) if known else "",
            verifier=self.settings.by,
            family="documents",
            index=document.number,
        )
