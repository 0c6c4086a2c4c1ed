"""How surprised a small language model is by a text, judged within each domain."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from deepseek.core.errors import ConfigError
from deepseek.core.llm import LanguageModel
from deepseek.data.quality.document import Document
from deepseek.data.quality.operator import Context, Scores, require
from deepseek.data.quality.quantiles import QuantileOperator, QuantileSettings
from deepseek.data.surprise import CHARACTERS, bits_per_byte


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsPerByteSettings(QuantileSettings):
    """Which model reads, and which of its scores are dropped.

    Quantiles are taken within each domain: over all domains together, code and science would be
    the first to go.
    """

    model: str = ""
    """A name or a path, such as smollm2-135m."""
    characters: int = CHARACTERS
    """Of a text that are read."""
    above: float = 0.9


class BitsPerByte(QuantileOperator):
    """Bits for a byte: low for set phrases and repetition, high for noise."""

    name = "bits_per_byte"
    Settings = BitsPerByteSettings
    judged = "bits_per_byte"
    in_pool = False

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        require(
            settings.characters > 0,
            f"operators.{self.name}.characters is {settings.characters}",
            "allowed: 1 or more",
        )
        require(bool(settings.model), f"operators.{self.name} names no model", 'model = "…"')

    @cached_property
    def _model(self) -> LanguageModel:
        return opened(self.context, self.settings.model, self.name)

    def score(self, batch: Sequence[Document]) -> Scores:
        """NaN for a blank text."""
        texts = [document.text for document in batch]
        return {"bits_per_byte": bits_per_byte(self._model, texts, self.settings.characters)}


def opened(context: Context, name: str, operator: str) -> LanguageModel:
    """The model of an operator.

    Raises:
        ConfigError: Nobody opens models here.
    """
    if context.open_model is None:
        raise ConfigError(f"{operator} needs a model, and none can be opened here", "leave it out")
    return context.open_model(name)
