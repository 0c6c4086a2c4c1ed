"""Which problems are hard for the model, in which way, and in which order they are kept."""

from collections.abc import Iterable
from typing import Literal, get_args

from deepseek.data.entropy.attempts import Attempt
from deepseek.data.synthesis.config import Selection

Kind = Literal["confident error", "uncertain", "unsolved", "solved"]
"""Wrong and sure of it; unsure, and right at times; unsure and never right; mostly right."""
KINDS: tuple[Kind, ...] = get_args(Kind)


def kind_of(attempt: Attempt, selection: Selection) -> Kind:
    """What a problem is to the model."""
    is_confident = attempt.signals["normalised"] <= selection.confident
    usual_is_right = any(sample.is_right for sample in attempt.usual)
    if is_confident:
        return "solved" if usual_is_right else "confident error"
    if attempt.pass_rate == 1.0:  # several forms, all right
        return "solved"
    return "uncertain" if attempt.pass_rate > 0 else "unsolved"


def hard_cases(attempts: Iterable[Attempt], selection: Selection) -> list[tuple[Kind, Attempt]]:
    """Confident errors first, the surest before; then what it is unsure of, the least sure before.

    Problems that it never solves come last, if they are wanted at all.
    """
    found: list[tuple[Kind, Attempt]] = []
    for attempt in attempts:
        kind = kind_of(attempt, selection)
        if kind in ("confident error", "uncertain") or (kind == "unsolved" and selection.unsolved):
            found.append((kind, attempt))
    found.sort(key=_rank)
    return found[: selection.limit] if selection.limit else found


def _rank(case: tuple[Kind, Attempt]) -> tuple[int, float, float, str]:
    kind, attempt = case
    entropy = float(attempt.signals["entropy"])
    first = entropy if kind == "confident error" else -entropy
    return KINDS.index(kind), first, attempt.pass_rate, attempt.id
