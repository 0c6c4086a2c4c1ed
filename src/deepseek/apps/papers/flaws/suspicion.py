"""From what is odd about a candidate to how likely it is a flaw: a logistic model per group.

The weights were fitted on papers with flaws planted by program and on the same papers without
(`benchmarks/flaw_weights.py`); 0.5 means that half of such findings were planted flaws.
"""

import dataclasses
import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from deepseek.apps.papers.flaws.flaw import Flaw

MIN_CONFIDENCE = 0.3  # below it a finding costs a reader more time than it is worth
MAX_PER_GROUP = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that may be a flaw, with what speaks for and against it."""

    group: str
    features: dict[str, float]
    flaw: Flaw
    """Its confidence is not set yet."""


@cache
def weights() -> dict[str, dict[str, float]]:
    """Weight of each feature of each group; "bias" is added always."""
    text = files("deepseek.apps.papers.flaws").joinpath("weights.toml").read_text("utf-8")
    return tomllib.loads(text)


def probability(candidate: Candidate) -> float:
    """How likely the candidate is a flaw."""
    group = weights()[candidate.group]
    score = group["bias"] + sum(group.get(k, 0.0) * x for k, x in candidate.features.items())
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))


def rated(candidates: Iterable[Candidate]) -> list[Flaw]:
    """The likely ones, best first, with their confidence."""
    found = [
        dataclasses.replace(candidate.flaw, confidence=round(confidence, 3))
        for candidate in candidates
        if (confidence := probability(candidate)) >= MIN_CONFIDENCE
    ]
    return sorted(found, key=lambda flaw: -flaw.confidence)[:MAX_PER_GROUP]
