"""Characters to lines: runs on one baseline, cut where a gap is too wide to be a space."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from deepseek.apps.documents.glyphs import BOLD, GENERATED, MONO, TILTED, PageGlyphs

HYPHEN = "\x02"  # PDFium's mark for a hyphen at a line's end
CELL_GAP = 1.3  # in font sizes: wider gaps separate table cells or columns
ADDRESS = re.compile(r"://|www\.|@\w")
LIGATURES = {
    "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl",
    "\ufb05": "st", "\ufb06": "st",
}  # fmt: skip

Box = tuple[float, float, float, float]


@dataclass(slots=True)
class Run:
    """Characters without a wide gap: a line of prose, or one cell of a table row."""

    text: str
    boxes: list[Box | None]
    """One a character; None for spaces that are not on the paper."""
    left: float
    top: float
    right: float
    bottom: float
    size: float
    """The commonest font size, in points."""
    bold: bool
    mono: bool = False
    """Whether it is set in a typewriter font, as code is."""

    @property
    def height(self) -> float:
        """Height of the ink, not of the font."""
        return self.bottom - self.top

    @property
    def middle(self) -> float:
        """Vertical centre, by which runs are sorted from the top."""
        return (self.top + self.bottom) / 2


@dataclass(slots=True)
class Line:
    """Runs side by side on one baseline within one column."""

    runs: list[Run] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The runs' texts with a space between."""
        return " ".join(run.text for run in self.runs)

    @property
    def left(self) -> float:
        """Left edge of the first run, in points."""
        return self.runs[0].left

    @property
    def right(self) -> float:
        """Right edge of the run that reaches farthest."""
        return max(run.right for run in self.runs)

    @property
    def top(self) -> float:
        """Top of the highest ink."""
        return min(run.top for run in self.runs)

    @property
    def bottom(self) -> float:
        """Bottom of the lowest ink."""
        return max(run.bottom for run in self.runs)

    @property
    def size(self) -> float:
        """Font size of the longest run: a superscript does not count."""
        return max(self.runs, key=lambda run: len(run.text)).size

    @property
    def bold(self) -> bool:
        """Whether the longest run is bold."""
        return max(self.runs, key=lambda run: len(run.text)).bold

    @property
    def mono(self) -> bool:
        """Whether it is code: all in a typewriter font, and no address."""
        return all(run.mono and not ADDRESS.search(run.text) for run in self.runs)


def page_runs(page: PageGlyphs) -> list[Run]:
    """The runs of a page in the order of the file; tilted text is left out."""
    glyphs = _Glyphs(
        page.codes.tolist(),
        [tuple(box) for box in page.boxes.tolist()],
        page.sizes.tolist(),
        page.flags.tolist(),
    )
    runs: list[Run] = []
    current: list[int] = []
    last = -1
    for i, (code, flags) in enumerate(zip(glyphs.codes, glyphs.flags, strict=True)):
        if flags & TILTED:
            continue
        if code in (10, 13):
            _close(glyphs, current, runs)
            last = -1
            continue
        left = glyphs.boxes[i][0]
        if flags & GENERATED or left != left:  # NaN differs from itself
            if code == ord(HYPHEN) or (code in (0x20, 0xA0) and current):
                current.append(i)
            continue
        if last >= 0 and _breaks(glyphs, last, i):
            _close(glyphs, current, runs)
        current.append(i)
        last = i
    _close(glyphs, current, runs)
    return runs


@dataclass(slots=True)
class _Glyphs:
    """`PageGlyphs` as lists: reading single numbers out of arrays is ten times as slow."""

    codes: list[int]
    boxes: list[Box]
    sizes: list[float]
    flags: list[int]


def _breaks(glyphs: _Glyphs, before: int, after: int) -> bool:
    """Whether two neighbours in the file are too far apart to be one run."""
    _, top, right, bottom = glyphs.boxes[before]
    left2, top2, _, bottom2 = glyphs.boxes[after]
    size = max(glyphs.sizes[before], glyphs.sizes[after], bottom - top, 4.0)
    gap = left2 - right
    if gap > CELL_GAP * size or gap < -4 * size:
        return True
    apart = min(bottom, bottom2) - max(top, top2)  # negative: no vertical overlap
    return apart < -0.6 * size


def _close(glyphs: _Glyphs, indices: list[int], runs: list[Run]) -> None:
    """Make a run of the collected characters, and forget them."""
    text: list[str] = []
    boxes: list[Box | None] = []
    for i in indices:
        box = glyphs.boxes[i]
        place = None if box[0] != box[0] else box
        for character in _character(glyphs.codes[i]):
            if character == " " and (not text or text[-1] == " "):
                continue
            text.append(character)
            boxes.append(None if character == " " else place)
    while text and text[-1] == " ":
        text.pop()
        boxes.pop()
    placed = [box for box in boxes if box is not None]
    if placed:
        lefts, tops, rights, bottoms = zip(*placed, strict=True)
        inked = [i for i in indices if not glyphs.flags[i] & GENERATED]
        sizes = Counter(round(glyphs.sizes[i] * 2) / 2 for i in inked)
        bold = sum(1 for i in inked if glyphs.flags[i] & BOLD)
        mono = sum(1 for i in inked if glyphs.flags[i] & MONO)
        runs.append(
            Run(
                text="".join(text),
                boxes=boxes,
                left=min(lefts),
                top=min(tops),
                right=max(rights),
                bottom=max(bottoms),
                # The text's size, not that of its indices, however long these are.
                size=max(size for size, n in sizes.items() if n >= 0.3 * max(sizes.values())),
                bold=bold > 0.6 * len(inked),
                mono=mono > 0.8 * len(inked),
            )
        )
    indices.clear()


@lru_cache(4096)
def _character(code: int) -> str:
    """The text of one glyph: ligatures opened, exotic spaces made plain, control codes dropped."""
    if code == 2:
        return HYPHEN
    character = chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else ""
    if character in LIGATURES:
        return LIGATURES[character]
    if character in ("\u00ad", "\ufffe", "\uffff"):
        return HYPHEN
    if not character or unicodedata.category(character) in ("Cc", "Cs", "Cn"):
        return " " if character == "\t" else ""
    return " " if unicodedata.category(character) == "Zs" else character
