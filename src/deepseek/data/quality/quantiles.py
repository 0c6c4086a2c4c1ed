"""Operators whose score is judged within its domain: what is odd for web text is not for code."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from deepseek.data.quality.document import Document
from deepseek.data.quality.layout import texts_as_array, texts_of_array
from deepseek.data.quality.operator import (
    KEEP,
    Context,
    Decision,
    Operator,
    Scores,
    State,
    Survey,
    require,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileSettings:
    """Which scores are dropped; settings of an operator with quantiles inherit these."""

    below: float = 0.0
    """The lowest share of each domain, 0 to 1; 0 drops none."""
    above: float = 1.0
    """Scores above this quantile of the domain; 1 drops none."""
    least: float | None = None
    """Smaller scores are dropped in every domain."""
    most: float | None = None
    """Larger ones, too."""


class QuantileOperator(Operator):
    """Drops the ends of its score's distribution in each domain. A subclass scores."""

    Settings: ClassVar[type] = QuantileSettings
    judged: ClassVar[str]
    """The score that decides."""
    is_global = True

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        low, high = settings.below, settings.above
        require(
            0 <= low < high <= 1,
            f"operators.{self.name} keeps scores between the quantiles {low} and {high}",
            "0 <= below < above <= 1",
        )
        self._limits: dict[str, tuple[float, float]] = {}

    def settle(self, survey: Survey) -> None:
        """The quantiles of each domain."""
        values = np.asarray(survey.scores[self.judged]) if len(survey.numbers) else np.zeros(0)
        for number, name in enumerate(survey.domains):
            own = values[(survey.domain == number) & ~np.isnan(values)]
            settings, low, high = self.settings, -np.inf, np.inf
            if own.size and settings.below > 0:
                low = float(np.quantile(own, settings.below))
            if own.size and settings.above < 1:
                high = float(np.quantile(own, settings.above))
            self._limits[name] = low, high

    def state(self) -> State:
        """Domains and their limits."""
        limits = np.array(list(self._limits.values()), dtype=np.float64).reshape(-1, 2)
        return {"domains": texts_as_array(list(self._limits)), "limits": limits}

    def restore(self, state: State) -> None:
        """Take limits over."""
        pairs = [(float(low), float(high)) for low, high in state["limits"]]
        self._limits = dict(zip(texts_of_array(state["domains"]), pairs, strict=True))

    def decide(self, batch: Sequence[Document], scores: Scores) -> list[Decision]:
        """Drop what lies outside."""
        values = scores[self.judged].tolist()
        return [self._decision(d.domain, v) for d, v in zip(batch, values, strict=True)]

    def _decision(self, domain: str, value: float) -> Decision:
        settings = self.settings
        low, high = self._limits.get(domain, (-np.inf, np.inf))
        said = f"{self.judged.replace('_', ' ')} {value:.4g} is"
        if settings.least is not None and value < settings.least:
            return Decision(f"{said} below {settings.least:g}")
        if settings.most is not None and value > settings.most:
            return Decision(f"{said} above {settings.most:g}")
        if value < low:
            return Decision(f"{said} below {low:.4g}, quantile {settings.below:g} of {domain}")
        if value > high:
            return Decision(f"{said} above {high:.4g}, quantile {settings.above:g} of {domain}")
        return KEEP
