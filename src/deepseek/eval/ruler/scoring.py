"""RULER's two metrics, from 0 to 100."""

import re
from collections.abc import Sequence

UNPRINTABLE = re.compile(r"[\x00-\x1f]")


def string_match_all(prediction: str, outputs: Sequence[str]) -> float:
    """The share of the expected parts that the answer has somewhere, whatever their case."""
    text = _cleaned(prediction)
    return 100 * sum(part.lower() in text for part in outputs) / len(outputs)


def string_match_part(prediction: str, outputs: Sequence[str]) -> float:
    """Whether the answer has one of the expected parts somewhere, whatever their case."""
    text = _cleaned(prediction)
    return 100.0 * any(part.lower() in text for part in outputs)


def _cleaned(prediction: str) -> str:
    return UNPRINTABLE.sub("\n", prediction.strip()).strip().lower()
