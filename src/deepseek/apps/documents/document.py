"""The immutable result of reading a document. Spans are the only currency above it.

`Page.text` is fixed once the document is read: reading order, hyphens at line ends joined,
running heads dropped. Whatever quotes the document names a `Span`; nobody copies text by hand.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

BlockKind = Literal[
    "title",
    "heading",
    "paragraph",
    "list",
    "caption",
    "table",
    "figure",  # labels, legends and other text inside a figure
    "equation",
    "code",
    "footnote",
    "reference",
]
SectionRole = Literal[
    "front",  # title, authors, affiliations: before the abstract
    "abstract",
    "introduction",
    "related",
    "method",
    "experiments",  # set-up: data, baselines, hyper-parameters
    "results",
    "ablation",
    "limitations",
    "conclusion",
    "references",
    "appendix",
    "other",
]


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Characters `start` to `end` (exclusive) of one page; `page` counts from 1."""

    page: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """One page: its final text and where each character stands on the paper."""

    number: int
    text: str
    width: float = 0.0
    height: float = 0.0
    boxes: NDArray[np.float32] | None = None
    """One row a character: left, top, right, bottom in points from the top left corner;
    NaN for characters that are not on the paper (joined lines, spaces added)."""


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, heading, caption, table … in reading order. One span for each page it is on."""

    kind: BlockKind
    spans: tuple[Span, ...]
    section: int
    """Index into `Document.sections`."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence with its id (`S1`, `S2` …), the only name by which a model may cite it."""

    id: str
    spans: tuple[Span, ...]
    block: int
    """Index into `Document.blocks`."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section: its title as printed, its canonical role and its depth (1 = top)."""

    title: str
    role: SectionRole
    level: int
    page: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its caption block (if found) and its cells' texts and spans, row by row."""

    caption: int | None
    """Index into `Document.blocks`."""
    block: int
    rows: tuple[tuple["Cell", ...], ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One table cell. `text == document.quote((span,))`."""

    text: str
    span: Span
    column: int = 0
    """The table's column, from 0, under which the cell begins: cells of one column have the same
    number in every row, also where cells before them are empty."""
    columns: int = 1
    """How many columns it stands over: more than one for a heading shared by several."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Document:
    """A document that was read: pages, blocks, sentences, sections, tables and metadata."""

    id: str
    """SHA-256 of the source bytes."""
    source: str
    kind: Literal["pdf", "text", "markdown"]
    pages: tuple[Page, ...]
    blocks: tuple[Block, ...]
    sentences: tuple[Sentence, ...]
    sections: tuple[Section, ...]
    tables: tuple[Table, ...] = ()
    title: str = ""
    language: Literal["en", "zh"] = "en"
    warnings: tuple[str, ...] = field(default=())
    """What a reader should know, e.g. "page 7 has no text (scanned?)"."""

    def quote(self, spans: tuple[Span, ...]) -> str:
        """The text of the spans, in order; parts on different pages are joined by a space."""
        return " ".join(self.pages[s.page - 1].text[s.start : s.end] for s in spans)

    def text_of(self, item: Block | Sentence) -> str:
        """The text of a block or sentence."""
        return self.quote(item.spans)

    def section_of(self, sentence: Sentence) -> Section:
        """The section in which a sentence stands."""
        return self.sections[self.blocks[sentence.block].section]

    def kind_of(self, sentence: Sentence) -> BlockKind:
        """The kind of block in which a sentence stands."""
        return self.blocks[sentence.block].kind
