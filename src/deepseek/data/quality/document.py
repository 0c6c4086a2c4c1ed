"""A text on its way through the operators, with all that they said about it."""

from dataclasses import dataclass, field
from typing import Any

INDEX_BITS = 32
"""A document's number is its shard's number and its place there, in so many bits."""


@dataclass(slots=True)
class Document:
    """One text. Operators read it; only the pipeline changes it."""

    id: str
    """As its source names it, else the file and the line or place in it."""
    source: str
    """The section `[sources.NAME]` that it comes from."""
    domain: str
    """Among what it is compared where an operator works with quantiles."""
    text: str
    number: int = 0
    """Its place in the corpus (shard << 32 | index): unique, and the same in every run."""
    metadata: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    """`operator.score` of every operator that has seen it, also of the one that dropped it."""
    edits: dict[str, str] = field(default_factory=dict)
    """What operators changed in the text: their names and what they say they did."""
    dropped_by: str = ""
    """The operator that dropped it; empty: it was kept."""
    reason: str = ""
    """Why, in words, with the score and the threshold."""
