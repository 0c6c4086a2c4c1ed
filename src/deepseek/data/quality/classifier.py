"""How much a text is like the good of two sets of texts, by a classifier trained on both."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from deepseek.data.quality.document import Document
from deepseek.data.quality.logistic import LogisticModel
from deepseek.data.quality.operator import Scores
from deepseek.data.quality.quantiles import QuantileOperator, QuantileSettings
from deepseek.data.quality.reference import model_file, reference_files, reference_texts

PIECE = 20_000
"""Characters of a text that are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSettings(QuantileSettings):
    """Examples of both sides."""

    good: list[str] = field(default_factory=list)
    """Files and folders of texts like those that are wanted."""
    bad: list[str] = field(default_factory=list)
    characters: int = 20_000_000
    """Of each side that are read."""


class Classifier(QuantileOperator):
    """The probability of the good side; `least` or `below` says what is dropped."""

    name = "classifier"
    Settings = ClassifierSettings
    judged = "quality"

    def inputs(self) -> list[Path]:
        """The texts of both sides."""
        return self._files("good") + self._files("bad")

    def _files(self, side: str) -> list[Path]:
        return reference_files(self.context, getattr(self.settings, side), side)

    @cached_property
    def _model(self) -> LogisticModel:
        key = (self.settings.characters, len(self._files("good")))
        file = model_file("logistic", self.inputs(), key)
        if file.exists():
            return LogisticModel.load(file)
        good, bad = (
            [t[:PIECE] for t in reference_texts(self._files(side), self.settings.characters)]
            for side in ("good", "bad")
        )
        model = LogisticModel.train(good, bad)
        model.save(file)
        return model

    def prepare(self) -> None:
        """Train the model, unless the cache has it."""
        assert self._model.weights.size

    def score(self, batch: Sequence[Document]) -> Scores:
        """Between 0 and 1."""
        return {"quality": self._model.chances([d.text[:PIECE] for d in batch])}
