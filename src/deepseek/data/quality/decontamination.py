"""Keeps texts of evaluation sets out, by the index of `deepseek eval index`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepseek.data.contamination import ContaminationIndex
from deepseek.data.quality.document import Document
from deepseek.data.quality.operator import KEEP, Context, Decision, Operator, Scores, require


@dataclass(frozen=True, slots=True)
class DecontaminationSettings:
    """Which index."""

    index: str = ""
    """A file that `deepseek eval index` wrote."""
    shared_tokens: int = 1
    """From so many tokens in shared runs of 13 a document is dropped."""


class Decontamination(Operator):
    """Drops documents that share a run of 13 tokens with an evaluation item."""

    name = "decontamination"
    Settings = DecontaminationSettings

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        require(
            bool(settings.index),
            "operators.decontamination.index is missing",
            "make one with deepseek eval index --out FILE",
        )
        require(
            self._file.is_file(),
            f"{self._file} does not exist",
            "make it with deepseek eval index --out FILE",
        )

    @property
    def _file(self) -> Path:
        return self.context.path(self.settings.index)

    @cached_property
    def _index(self) -> ContaminationIndex:
        return ContaminationIndex.load(self._file)

    def inputs(self) -> list[Path]:
        """The index."""
        return [self._file]

    def score(self, batch: Sequence[Document]) -> Scores:
        """Tokens in shared runs, and which tasks share them (their places in the index)."""
        tasks = [task.name for task in self._index.info.tasks]
        shared = np.zeros(len(batch))
        first = np.full(len(batch), -1, np.int64)
        for row, document in enumerate(batch):
            matches = self._index.matches(document.text)
            shared[row] = sum(match.n_tokens for match in matches)
            if matches:
                first[row] = tasks.index(matches[0].tasks[0])
        return {"shared_tokens": shared, "task": first}

    def decide(self, batch: Sequence[Document], scores: Scores) -> list[Decision]:
        """Drop what shares too much."""
        least = max(1, self.settings.shared_tokens)
        tasks = [task.name for task in self._index.info.tasks]
        pairs = zip(scores["shared_tokens"].tolist(), scores["task"].tolist(), strict=True)
        return [
            Decision(f"text of {tasks[task]}: {shared:.0f} tokens") if shared >= least else KEEP
            for shared, task in pairs
        ]
