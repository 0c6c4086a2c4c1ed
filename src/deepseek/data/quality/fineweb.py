"""FineWeb's own rules (arXiv 2406.17557): lines without an end, short, repeated, and lists."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepseek.data.quality.document import Document
from deepseek.data.quality.heuristics import Bound, BoundedOperator, stacked
from deepseek.data.quality.operator import Scores
from deepseek.data.quality.words import words_of

TERMINAL = tuple(".!?։؞؟۔܀܁܂߹।॥၊။።፧፨᙮᜵᜶᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡。")


@dataclass(frozen=True, slots=True)
class FineWebSettings:
    """Thresholds; 0 switches a rule off."""

    min_ended_lines: float = 0.12
    max_short_lines: float = 0.67
    short_line: int = 30
    """Characters of a short line."""
    max_repeated: float = 0.01
    """Characters in lines that were there before, by all characters."""
    max_new_lines: float = 0.3
    """Line breaks by tokens."""


class FineWeb(BoundedOperator):
    """How lines end, how long they are, which come again, how many there are."""

    name = "fineweb"
    Settings = FineWebSettings
    bounds = (
        Bound("ended_lines", "min_ended_lines", "below"),
        Bound("short_lines", "max_short_lines", "above"),
        Bound("repeated", "max_repeated", "above"),
        Bound("new_lines", "max_new_lines", "above"),
    )

    def score(self, batch: Sequence[Document]) -> Scores:
        """Lines of white space do not count."""
        texts = [document.text for document in batch]
        counts = words_of(texts).counts
        breaks = np.array([text.count("\n") for text in texts])
        with np.errstate(divide="ignore", invalid="ignore"):
            new_lines = np.where(counts > 0, breaks / counts, np.inf)
        return {
            **stacked([_line_shares(text, self.settings.short_line) for text in texts]),
            "new_lines": new_lines,
        }


def _line_shares(text: str, short: int) -> dict[str, float]:
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if not lines:
        return {"ended_lines": 0.0, "short_lines": 1.0, "repeated": 0.0}
    repeated = sum(map(len, lines)) - sum(map(len, set(lines)))
    return {
        "ended_lines": sum(line.endswith(TERMINAL) for line in lines) / len(lines),
        "short_lines": sum(len(line) <= short for line in lines) / len(lines),
        "repeated": repeated / (len(text) - text.count("\n")),
    }
