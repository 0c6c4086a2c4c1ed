"""What an operator of the data pipeline is: it scores batches of documents and decides on each.

An operator is a class with a `name`, a frozen dataclass of its `Settings` (the keys of its
`[[operators]]` table in the TOML file), and

* `score(batch)`: numbers for each document, vectorised over the batch. Array i of a score belongs
  to document i, whatever else is in the batch: batches are cut differently in different runs.
* `decide(batch, scores)`: one `Decision` a document: it stays, is dropped with a reason, or goes
  on with a changed text.

That is all for an operator that judges a document alone. One that compares documents (quantiles
within a domain, duplicates) sets `is_global = True`. Then the pipeline scores all documents first,
calls `settle(survey)` once with the scores of all (no texts; in the order of the documents'
numbers, whatever the number of workers), keeps `state()` on the disk, gives it to `restore(state)`
in each worker, and only then calls `decide`.

Scores with one axis, float64 [n], are kept with each document under `name.score` and shown as
histograms. Arrays of other types or with more axes (hashes, signatures) only reach `settle` and
`decide`. NaN means that a score does not apply to a document.

An operator that holds a language model sets `in_pool = False`: it runs in the main process, one
batch after the other, and takes its model from `context.open_model` when it scores first (it is
built in workers, too, which have no model); `data` imports no engine.

To add one: a file here with the class, and a line in `registry.py`. Quantiles within domains are in
`quantiles.py`: `QuantileOperator` needs `score` only.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from deepseek.core.config import build
from deepseek.core.errors import ConfigError
from deepseek.core.llm import LanguageModel
from deepseek.data.quality.document import Document

Scores = Mapping[str, np.ndarray[Any, np.dtype[Any]]]
"""Named arrays; the first axis of each is the batch's."""
State = Mapping[str, np.ndarray[Any, np.dtype[Any]]]
"""What `settle` found out, as arrays of plain numbers."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one document."""

    reason: str = ""
    """Why it is dropped, with the score and the threshold; empty: it stays."""
    text: str | None = None
    """What its text becomes; None: as it was."""
    edit: str = ""
    """What was changed in the text, such as `2 e-mail addresses`."""


KEEP = Decision()


@dataclass(frozen=True, slots=True)
class Survey:
    """Scores of all documents that reach a global operator, in the order of their numbers."""

    numbers: np.ndarray[Any, np.dtype[np.int64]]
    """[N]"""
    domains: Sequence[str]
    """The names of the domains."""
    domain: np.ndarray[Any, np.dtype[np.int32]]
    """[N], places in `domains`."""
    scores: Scores
    """As `score` gave them, [N, …]."""
    ids: Callable[[Sequence[int]], list[str]]
    """Identifiers of the documents with these numbers."""


@dataclass(frozen=True, slots=True)
class Context:
    """What operators are built with, beside their settings."""

    folder: Path
    """Relative paths in the settings start here."""
    open_model: Callable[[str], LanguageModel] | None = None
    """Opens a model by name or path, in the main process only."""

    def path(self, name: str) -> Path:
        """A path of a setting."""
        return self.folder / Path(name).expanduser()


@dataclass(frozen=True, slots=True)
class NoSettings:
    """Of an operator without any."""


class Operator(ABC):
    """Scores documents and decides on them."""

    name: ClassVar[str]
    """In the TOML file, in reports, and before the names of its scores."""
    Settings: ClassVar[type] = NoSettings
    """A frozen dataclass: the keys that its table may have, with their defaults."""
    is_global: ClassVar[bool] = False
    """Whether it must have seen all documents before it decides on one."""
    in_pool: ClassVar[bool] = True
    """Whether worker processes may run it; else the main process does."""

    def __init__(self, settings: Any, context: Context) -> None:
        """Raises ConfigError where a setting is out of its range."""
        self.settings = settings
        self.context = context

    @abstractmethod
    def score(self, batch: Sequence[Document]) -> Scores:
        """Named scores of each document."""

    @abstractmethod
    def decide(self, batch: Sequence[Document], scores: Scores) -> Sequence[Decision]:
        """A decision on each document, from its scores (and, if global, from the state)."""

    def settle(self, survey: Survey) -> None:
        """Find out what `decide` needs to know of all documents."""
        return

    def state(self) -> State:
        """What `settle` found out."""
        return {}

    def restore(self, state: State) -> None:
        """Take a state over."""
        return

    def prepare(self) -> None:
        """What is done once, in the main process, before workers score: a model is trained."""
        return

    def inputs(self) -> Sequence[Path]:
        """Files that the settings name: a run under other contents of theirs is another run."""
        return ()


def build_operator(kind: type[Operator], table: dict[str, Any], context: Context) -> Operator:
    """An operator from its table in the TOML file, without the key `use`.

    Raises:
        ConfigError: A setting is unknown, of the wrong type or out of its range.
    """
    return kind(build(kind.Settings, table, f"operators.{kind.name}."), context)


def require(condition: bool, message: str, hint: str) -> None:
    """Refuse settings out of their range.

    Raises:
        ConfigError: The condition does not hold.
    """
    if not condition:
        raise ConfigError(message, hint)
