"""Operators that keep one document of a group of equal ones: the first in the corpus."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from deepseek.data.quality.document import Document
from deepseek.data.quality.layout import texts_as_array, texts_of_array
from deepseek.data.quality.operator import KEEP, Context, Decision, Operator, Scores, State, Survey


class DuplicateOperator(Operator):
    """Drops all but the first of each group. A subclass scores and finds the groups."""

    is_global = True
    relation = "duplicate"

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        self._numbers: Int64[np.ndarray, " d"] = np.zeros(0, np.int64)
        self._originals: list[str] = []

    @abstractmethod
    def leaders(self, survey: Survey) -> Int64[np.ndarray, " N"]:
        """For each row the row of the first document of its group; its own if it is alone."""

    def settle(self, survey: Survey) -> None:
        """Which documents are not the first of their group, and which is."""
        leaders = self.leaders(survey)
        rows = np.flatnonzero(leaders != np.arange(len(leaders)))
        self._numbers = survey.numbers[rows]
        self._originals = survey.ids(survey.numbers[leaders[rows]].tolist())

    def state(self) -> State:
        """Documents that are dropped, and of which they are duplicates."""
        return {"numbers": self._numbers, "originals": texts_as_array(self._originals)}

    def restore(self, state: State) -> None:
        """Take them over."""
        self._numbers = state["numbers"]
        self._originals = texts_of_array(state["originals"])

    def decide(self, batch: Sequence[Document], scores: Scores) -> list[Decision]:
        """Drop what is not the first."""
        if not len(self._numbers):
            return [KEEP] * len(batch)
        numbers = np.array([document.number for document in batch])
        places = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        return [
            Decision(f"{self.relation}: {self._originals[place]}") if is_found else KEEP
            for place, is_found in zip(places, self._numbers[places] == numbers, strict=True)
        ]
