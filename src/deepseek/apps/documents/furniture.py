"""Running heads, feet and page numbers: found by what repeats from page to page."""

import re
from collections import Counter

from deepseek.apps.documents.lines import Run

EDGE = 0.16  # share of the page's height in which heads and feet stand
NUMBER = re.compile(r"\W*(page\s*)?(\d{1,4}|[ivxlc]{1,6})(\s*(/|of)\s*\d{1,4})?\W*", re.IGNORECASE)


def drop_furniture(pages: list[tuple[list[Run], float]]) -> list[list[Run]]:
    """Remove what heads and foots the pages.

    Args:
        pages: Runs and height of each page.

    Returns:
        The runs of each page that belong to its text.
    """
    counts: Counter[tuple[str, int]] = Counter()
    for runs, height in pages:
        counts.update({_key(run) for run in runs if _at_edge(run, height)})
    needed = 2 if len(pages) <= 3 else max(3, len(pages) // 5)
    repeated = {key for key, count in counts.items() if count >= needed}
    kept = []
    for runs, height in pages:
        body = [
            run
            for run in runs
            if not (_at_edge(run, height) and (_key(run) in repeated or _is_number(run, height)))
        ]
        kept.append(body)
    return kept


def _at_edge(run: Run, height: float) -> bool:
    return run.bottom < EDGE * height or run.top > (1 - EDGE) * height


def _key(run: Run) -> tuple[str, int]:
    """Text with digits made alike, and the height at which it stands (in steps of 4 points)."""
    return re.sub(r"\d+", "#", run.text.strip().lower()), round(run.middle / 4)


def _is_number(run: Run, height: float) -> bool:
    outer = run.bottom < 0.08 * height or run.top > 0.9 * height
    return outer and NUMBER.fullmatch(run.text.strip()) is not None
