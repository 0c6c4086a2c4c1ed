"""Which section each block is in: headings that hold, roles, references, appendix."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from deepseek.apps.documents.assembly import FLOWING, PlacedBlock, text_of
from deepseek.apps.documents.blocks import SENTENCE_END
from deepseek.apps.documents.document import Block, BlockKind, Page, Section, SectionRole
from deepseek.apps.documents.headings import KNOWN, NUMBERED, role_of

ABSTRACT = re.compile(r"(abstract|摘\s*要|内容提要)\s*[.:：—–-]*\s*", re.IGNORECASE)
NUMBER = re.compile(
    r"(\d{1,2}(\.\d{1,2})*|[A-Z]\.\d|[A-H]|[IVX]+)[.\s]|第|[一二三四五六七八九十]、|\d+[\u4e00-\u9fff]"
)
COUNTED = re.compile(
    r"\d{1,2}(\.\d{1,2})*[.\s]|[IVX]+\.\s|第|[一二三四五六七八九十]、|\d+[\u4e00-\u9fff]"
)
UNNUMBERED = re.compile(
    r"chapter \d|abstract|references|bibliography|acknowledg|appendi|supplement|limitation|ethic"
    r"|broader|conclusion|introduction|摘\s*要|参考文献|致\s*谢|附\s*录|结\s*论|引\s*言",
    re.IGNORECASE,
)
MAX_FRONT = 6_000  # characters of title, authors and affiliations
ENTRY = re.compile(r"\[\w{1,12}\]|\d{1,3}\.\s")
THANKS = re.compile(r"acknowledg|致\s*谢", re.IGNORECASE)


@dataclass(slots=True)
class _Outline:
    """The sections found so far."""

    is_numbered: bool
    has_abstract: bool
    sections: list[Section]
    top: int = 0
    """Number of the last section of the top level."""
    stack: list[tuple[int, str, SectionRole]] = field(default_factory=list)
    """Level, number and role of the sections around the current place."""
    after_references: bool = False
    body_size: float = 10.0
    are_marked: bool = False
    """Whether the file itself says what is a heading, as Markdown does."""

    @property
    def role(self) -> SectionRole:
        """The role of the section at the current place."""
        return self.sections[-1].role

    def accepts(self, text: str) -> bool:
        """Whether a heading's words and number fit here."""
        if self.are_marked:
            return True
        if self.role == "front" and not _opens_text(text, self.has_abstract):
            return False  # authors and affiliations are often bold
        if self.is_numbered and not NUMBER.match(text) and not UNNUMBERED.match(text):
            # Where sections are numbered, the rest is words in figures.
            return self.after_references and self.role == "references" and len(text) > 12
        return _follows(text, self.top)

    def open(self, text: str, level: int, page: int) -> None:
        """Begin a section."""
        number = re.match(r"(\d+|[A-Z](?=[.\s]))", text)
        if number and number[0].isdigit():
            self.top = int(number[0])
        chapter = number[0] if number else ""
        self.stack = [
            entry
            for entry in self.stack
            if entry[0] < level and (not chapter or entry[1] in ("", chapter))
        ]
        parent: SectionRole = self.stack[-1][2] if self.stack else "other"
        role = role_of(text, parent)
        own = role_of(text, "other")
        if self.after_references and own not in ("references", "limitations"):
            role = "other" if THANKS.search(text) else "appendix"
        self.after_references |= own == "references"
        self.stack.append((level, chapter, role))
        self.sections.append(Section(text, role, level, page))


def divide(
    pages: Sequence[Page],
    blocks: list[PlacedBlock],
    title_index: int | None,
    *,
    are_marked: bool = False,
) -> tuple[list[Section], list[Block], list[int]]:
    """Sections, final blocks, and for each placed block its index among the final ones.

    Args:
        pages: Final pages.
        blocks: In reading order.
        title_index: Which of the blocks is the title.
        are_marked: Whether the file itself says what is a heading.
    """
    headings = [text_of(pages, b.spans) for b in blocks if b.kind == "heading"]
    outline = _Outline(
        is_numbered=sum(1 for text in headings if COUNTED.match(text)) >= 4,
        has_abstract=any(ABSTRACT.match(text) for text in headings[:8]),
        sections=[Section("", "front", 1, blocks[0].spans[0].page if blocks else 1)],
        body_size=_body_size(blocks),
        are_marked=are_marked,
    )
    final: list[Block] = []
    index_of: list[int] = []
    for index, block in enumerate(blocks):
        kind = _settle(pages, block, outline, title_index, index)
        last = final[-1] if final else None
        if kind == "reference" and last and last.kind == kind and _goes_on(pages, last, block):
            final[-1] = replace(last, spans=last.spans + tuple(block.spans))
        else:
            section = 0 if kind == "title" else len(outline.sections) - 1
            final.append(Block(kind, tuple(block.spans), section))
        index_of.append(len(final) - 1)
    sections = _with_methods(outline.sections)
    front = [block for block in final if block.section == 0 and block.kind in FLOWING]
    if len(sections) == 1 or sum(len(text_of(pages, b.spans)) for b in front) > MAX_FRONT:
        sections[0] = replace(sections[0], role="other")  # a text without headings at its start
    return sections, final, index_of


def _settle(
    pages: Sequence[Page],
    block: PlacedBlock,
    outline: _Outline,
    title_index: int | None,
    index: int,
) -> BlockKind:
    """The block's final kind; opens a section if it is a heading."""
    if index == title_index:
        return "title"
    text = text_of(pages, block.spans)
    page = block.spans[0].page
    if block.kind == "heading":
        if (title_index is not None and index < title_index) or not outline.accepts(text):
            return "paragraph"
        outline.open(text, block.level, page)
    elif outline.role == "front":
        if block.kind in FLOWING and ABSTRACT.match(text) and len(text) > 80:
            outline.sections.append(Section("Abstract", "abstract", 1, page))
        elif block.kind == "table" and block.caption is None:
            return "paragraph"  # authors side by side
    elif outline.role == "references":
        if block.kind in (*FLOWING, "equation"):
            return "reference"
        if block.kind == "footnote" and outline.sections[-1].page != page:
            return "reference"  # a numbered entry at the foot of a page
    elif block.kind == "paragraph" and _is_label(text, block.size, outline.body_size):
        return "figure"
    return block.kind


def _is_label(text: str, size: float, body_size: float) -> bool:
    """Whether a paragraph is a few words in another size than the text's: a word in a figure."""
    few = len(text.split()) < 9 and not SENTENCE_END.search(text)
    return few and abs(size - body_size) >= 0.9


def _body_size(blocks: list[PlacedBlock]) -> float:
    sizes: Counter[float] = Counter()
    for block in blocks:
        if block.kind == "paragraph":
            sizes[block.size] += sum(span.end - span.start for span in block.spans)
    return sizes.most_common(1)[0][0] if sizes else 10.0


def _goes_on(pages: Sequence[Page], last: Block, block: PlacedBlock) -> bool:
    """Whether a block is the rest of the reference before it, by its indent."""
    text, before = text_of(pages, block.spans), text_of(pages, last.spans)
    if ENTRY.match(before):
        return not ENTRY.match(text)
    if block.spans[0].page == last.spans[-1].page + 1 and not SENTENCE_END.search(before):
        return True
    return block.indent > 0.6 and block.spans[0].page == last.spans[-1].page


def _with_methods(sections: list[Section]) -> list[Section]:
    """Sections named after their subject, between introduction and experiments, are the method."""
    roles = [section.role for section in sections]
    first = roles.index("introduction") if "introduction" in roles else 0
    later = [i for i, role in enumerate(roles) if i > first and role in ("experiments", "results")]
    end = later[0] if later else 0
    return [
        replace(section, role="method") if section.role == "other" and first < i < end else section
        for i, section in enumerate(sections)
    ]


def _follows(text: str, top: int) -> bool:
    """Whether a heading's number can come after a section with the number `top`."""
    number = re.match(r"(\d+)(\.\d+)?", text)
    if number is None:
        return True
    first = int(number[1])
    if number[2]:
        return first == top or first == top + 1
    return first == top + 1 or (top == 0 and first <= 1)


def _opens_text(text: str, has_abstract: bool) -> bool:
    """Whether a heading can be the first of a paper."""
    numbered = NUMBERED.fullmatch(text)
    if numbered and has_abstract:  # before the abstract only affiliations are numbered
        return KNOWN.fullmatch(numbered["title"].strip()) is not None
    return bool(NUMBER.match(text)) or role_of(text, "front") != "other"
