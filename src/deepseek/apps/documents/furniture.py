"""Running heads, feet and page numbers: the outermost lines that repeat from page to page."""

import re
from collections import Counter

from deepseek.apps.documents.lines import Run

EDGE = 0.16  # share of the page's height in which heads and feet stand
NUMBER = re.compile(
    r"\W*(page\s*|第\s*)?(\d{1,4}|[ivxlc]{1,6})(\s*(/|of)\s*\d{1,4}|\s*页)?\W*", re.IGNORECASE
)


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
    needed = 2 if len(pages) <= 3 else min(max(3, len(pages) // 5), 6)
    repeated = {key for key, count in counts.items() if count >= needed}
    return [_body(runs, height, repeated) for runs, height in pages]


def _body(runs: list[Run], height: float, repeated: set[tuple[str, int]]) -> list[Run]:
    """What is left after taking repeated lines away from the top and from the bottom.

    Only the outermost go: a row of figures that many tables at the top of a page have in the
    same place is no running head.
    """
    dropped = {id(run) for run in runs if _is_page_number(run, height)}
    for outward in (1, -1):
        limit: float | None = None
        for run in sorted(runs, key=lambda run: outward * run.middle):
            if limit is not None and outward * (run.middle - limit) > 0:
                break
            near = run.middle < height / 2 if outward > 0 else run.middle > height / 2
            if near and _is_furniture(run, height, repeated):
                dropped.add(id(run))
            elif limit is None:
                limit = run.middle + outward * 0.5 * run.height  # what is beside it may still go
    return [run for run in runs if id(run) not in dropped]


def _is_furniture(run: Run, height: float, repeated: set[tuple[str, int]]) -> bool:
    if not _at_edge(run, height):
        return False
    is_word = any(c.isalpha() for c in run.text) or NUMBER.fullmatch(run.text.strip())
    return _is_page_number(run, height) or (_key(run) in repeated and bool(is_word))


def _is_page_number(run: Run, height: float) -> bool:
    outer = run.bottom < 0.08 * height or run.top > 0.9 * height
    return outer and NUMBER.fullmatch(run.text.strip()) is not None


def _at_edge(run: Run, height: float) -> bool:
    return run.bottom < EDGE * height or run.top > (1 - EDGE) * height


def _key(run: Run) -> tuple[str, int]:
    """Text with digits made alike, and the height at which it stands (in steps of 4 points)."""
    return re.sub(r"\d+", "#", run.text.strip().lower()), round(run.middle / 4)
