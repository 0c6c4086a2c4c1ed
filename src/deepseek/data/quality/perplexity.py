"""How surprised a trigram model of good texts is, judged within each domain."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from deepseek.data.grams import token_hashes
from deepseek.data.quality.document import Document
from deepseek.data.quality.ngrams import NgramModel
from deepseek.data.quality.operator import Decision, Scores
from deepseek.data.quality.quantiles import QuantileOperator, QuantileSettings
from deepseek.data.quality.reference import model_file, reference_files, reference_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexitySettings(QuantileSettings):
    """Which texts are good, and how far others may be from them."""

    reference: list[str] = field(default_factory=list)
    """Files and folders of good texts."""
    characters: int = 50_000_000
    """Of them that are read."""
    above: float = 0.9
    least_order: float | None = None
    """Nats a word that the two words before it must save on average: where words stand in no order,
    they save none (0.1 tells shuffled words from any good text near the reference)."""


class Perplexity(QuantileOperator):
    """Perplexity by word: low for set phrases, high for noise and foreign languages."""

    name = "perplexity"
    Settings = PerplexitySettings
    judged = "perplexity"

    def inputs(self) -> list[Path]:
        """The reference texts."""
        return reference_files(self.context, self.settings.reference, "reference")

    @cached_property
    def _model(self) -> NgramModel:
        file = model_file("ngrams", self.inputs(), self.settings.characters)
        if file.exists():
            return NgramModel.load(file)
        model = NgramModel.train(reference_texts(self.inputs(), self.settings.characters))
        model.save(file)
        return model

    def prepare(self) -> None:
        """Train the model, unless the cache has it."""
        assert self._model.grams

    def score(self, batch: Sequence[Document]) -> Scores:
        """NaN for a text without words."""
        words = [token_hashes(document.text) for document in batch]
        alone, _, after = (
            np.array([part.mean() if part.size else np.nan for part in parts])
            for parts in self._model.by_order(words)
        )
        return {"perplexity": np.exp(-after), "order": after - alone}

    def decide(self, batch: Sequence[Document], scores: Scores) -> list[Decision]:
        """Drop what lies outside, and words in no order."""
        found, least = super().decide(batch, scores), self.settings.least_order
        if least is None:
            return found
        return [
            Decision(f"order {saved:.4g} is below {least:g}") if saved < least else decision
            for decision, saved in zip(found, scores["order"].tolist(), strict=True)
        ]
