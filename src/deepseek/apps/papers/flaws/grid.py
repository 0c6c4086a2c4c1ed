"""Tables as rows of numbers with labels, whatever the layout left of their cells.

Cells of real PDFs come merged ("69.4 73.3"), cut off, or in pieces. So a row is read again,
word by word: words that are numbers are entries, what stands before them is their label.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deepseek.apps.documents.document import Block, Cell, Document, Span
from deepseek.apps.papers.flaws.numbers import Number, numbers_in

WORD = re.compile(r"\S+")
NUMERIC = re.compile(
    r"[(\[{~∼≈+−–<>≤≥$x×-]*\d[\d.,]*[kKMB]?[%％]?[)\]}*†‡§¶⋆∗★x×a-d\d]{0,3}"
    r"(?:[/|±(][−-]?[\d.]+[%)]?)*"
)
EMPTY = re.compile(r"[-–—−]+|[nN]/?[aA]|✓|✗|×|\*+|†|‡|N\.?A\.?")
YEAR = re.compile(r"\(?(19|20)\d\d[a-z]?[),;\]]+")  # of a citation in a label
TABLE_NUMBER = re.compile(r"(?:table|tab\.|表)\s*([A-Z]?\d{1,3}|[IVX]{1,5}\b)", re.IGNORECASE)
PER_CELL = 8  # numbers that one cell may hold, as "69.4 73.3" where two columns were not told apart
MAX_NUMERIC_PROSE = 0.4  # share of words with digits above which a paragraph is a stray table


@dataclass(frozen=True, slots=True)
class Entry:
    """One number of a table."""

    number: Number
    """Its offsets are those of the page's text."""
    span: Span
    column: int
    """Which column: entries of one column of one table share it. Empty cells count."""


@dataclass(frozen=True, slots=True)
class Row:
    """Numbers that follow one label."""

    label: str
    entries: tuple[Entry, ...]
    width: int
    """Number of columns of the piece of the table that the row belongs to."""
    span: Span

    def at(self, column: int) -> Entry | None:
        """The entry in a column."""
        return next((e for e in self.entries if e.column == column), None)


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: its rows, what its header says, and its caption."""

    rows: tuple[Row, ...]
    headers: tuple[str, ...]
    """Rows without numbers, from top to bottom."""
    heads: tuple[Cell, ...]
    """The cells of those rows."""
    caption: str
    caption_spans: tuple[Span, ...]
    page: int

    @property
    def name(self) -> str:
        """ "Table 2", or where it is."""
        match = TABLE_NUMBER.match(self.caption)
        return f"Table {match[1]}" if match else f"the table on page {self.page}"

    @property
    def number(self) -> str:
        """What the text calls it by, e.g. "2"; empty without a caption."""
        match = TABLE_NUMBER.match(self.caption)
        return match[1] if match else ""

    def column_header(self, entry: Entry, width: int) -> str:
        """What the rows without numbers say above an entry's column."""
        at = entry.column // PER_CELL
        found = [c.text for c in self.heads if c.column <= at < c.column + c.columns]
        if found or self.heads:
            return " ".join(found)
        for header in reversed(self.headers):
            words = header.split()
            if len(words) in (width, width + 1):
                return words[at - width]
        return ""

    def peers(self, row: Row, column: int) -> list[tuple[Row, Entry]]:
        """The other rows' entries of a column: rows of tables as wide only."""
        return [
            (other, entry)
            for other in self.rows
            if other is not row and other.width == row.width and (entry := other.at(column))
        ]


def grids(document: Document) -> list[Grid]:
    """All tables of a document, pieces of one table put together."""
    pieces: list[tuple[int | None, list[int]]] = []
    captions = {table.block: table.caption for table in document.tables}
    last = -10
    for index, block in enumerate(document.blocks):
        if not is_tabular(document, block):
            continue
        caption = captions.get(index)
        near = pieces and _adjoin(document, last, index)
        if near and (caption is None or pieces[-1][0] in (None, caption)):
            pieces[-1] = (pieces[-1][0] if caption is None else caption, [*pieces[-1][1], index])
        elif pieces and caption is not None and pieces[-1][0] == caption:
            pieces[-1][1].append(index)
        else:
            pieces.append((caption, [index]))
        last = index
    return [_grid(document, caption, blocks) for caption, blocks in pieces]


def is_tabular(document: Document, block: Block) -> bool:
    """Whether a block is a table, or a stray row of one that was taken for prose."""
    if block.kind == "table":
        return True
    if block.kind not in ("paragraph", "list", "equation"):
        return False
    words = document.text_of(block).split()
    numeric = sum(bool(NUMERIC.fullmatch(word)) for word in words)
    return 2 <= len(words) <= 200 and numeric > MAX_NUMERIC_PROSE * len(words)


def _adjoin(document: Document, before: int, after: int) -> bool:
    """Whether only captions and formulas stand between two blocks of one page."""
    a, b = document.blocks[before], document.blocks[after]
    between = document.blocks[before + 1 : after]
    return a.spans[-1].page == b.spans[0].page and all(
        other.kind in ("caption", "equation") for other in between
    )


def _grid(document: Document, caption: int | None, blocks: list[int]) -> Grid:
    rows: list[Row] = []
    headers: list[str] = []
    heads: list[Cell] = []
    tables = {table.block: table.rows for table in document.tables}
    for index in blocks:
        cells = tables.get(index, ())
        n_columns = max((c.column + c.columns for row in cells for c in row), default=0)
        for line, parts in _lines(document, document.blocks[index], cells):
            found = list(_rows(document.pages[line.page - 1].text, line, parts, n_columns))
            rows += found
            if not found:
                headers.append(document.quote((line,)))
                heads += parts
    spans = document.blocks[caption].spans if caption is not None else ()
    page = document.blocks[blocks[0]].spans[0].page
    text = document.quote(spans)
    return Grid(tuple(rows), tuple(headers), tuple(heads), text, spans, page)


def _lines(
    document: Document, block: Block, rows: Sequence[tuple[Cell, ...]]
) -> Iterator[tuple[Span, tuple[Cell, ...]]]:
    """The lines of a block, and their cells if it is a table whose columns are known."""
    if any(cell.column for row in rows for cell in row):
        for row in rows:
            yield Span(row[0].span.page, row[0].span.start, row[-1].span.end), row
        return
    for span in block.spans:
        text = document.pages[span.page - 1].text[span.start : span.end]
        for match in re.finditer(r"[^\n]+", text):
            if not re.fullmatch(r"[\s|:+=-]+", match.group()):
                yield Span(span.page, span.start + match.start(), span.start + match.end()), ()


def _rows(text: str, line: Span, cells: tuple[Cell, ...], n_columns: int) -> Iterator[Row]:
    """The labelled runs of numbers on one line; two tables side by side give two."""
    words = [
        (m.start() + line.start, m.end() + line.start)
        for m in WORD.finditer(text[line.start : line.end])
        if m.group() != "|"
    ]
    kinds = [_kind(text[a:b].strip("|")) for a, b in words]
    i, label_from = 0, 0
    while i < len(words):
        if kinds[i] == "word":
            i += 1
            continue
        j = i
        while j < len(words) and kinds[j] != "word":
            j += 1
        if _is_run(text, words, kinds, i, j, is_last=j == len(words)):
            start = words[label_from][0]
            label = text[start : words[i - 1][1]].strip(" |") if i > label_from else ""
            entries, width = _entries(text, words[i:j], line.page)
            if cells:
                entries, width = _in_cells(entries, cells), n_columns
            yield Row(label, tuple(entries), width, Span(line.page, start, words[j - 1][1]))
            label_from = j
        i = j


def _kind(word: str) -> str:
    if YEAR.fullmatch(word):
        return "word"
    if NUMERIC.fullmatch(word) or word in ("±", "+/-"):
        return "number"
    return "empty" if EMPTY.fullmatch(word) else "word"


def _is_run(
    text: str, words: list[tuple[int, int]], kinds: list[str], i: int, j: int, *, is_last: bool
) -> bool:
    """Whether words `i` to `j` are a row's numbers and not a number inside a label."""
    if "number" not in kinds[i:j]:
        return False
    return is_last or any("." in text[a:b] for a, b in words[i:j])


def _entries(text: str, words: list[tuple[int, int]], page: int) -> tuple[list[Entry], int]:
    entries: list[Entry] = []
    column = 0
    skip = False
    for start, end in words:
        word = text[start:end]
        if word in ("±", "+/-"):
            skip = True  # what follows is a deviation, not a result
            continue
        if skip:
            skip = False
            continue
        numbers = [n for part in _parts(word) for n in _placed(part, start)]
        if word.startswith("(") and column and len(numbers) == 1 and entries:
            column -= 1  # "(769)" explains the number before it
        for number in numbers:
            span = Span(page, number.start, number.end)
            entries.append(Entry(number, span, column * PER_CELL))
            column += 1
        if not numbers:
            column += 1
    return entries, column


def _in_cells(entries: list[Entry], cells: tuple[Cell, ...]) -> list[Entry]:
    """The entries under the columns of the cells that they stand in."""
    placed: list[Entry] = []
    for entry in entries:
        inside = (c for c in cells if c.span.start <= entry.span.start < c.span.end)
        cell = next(inside, cells[0])
        before = sum(e.column // PER_CELL == cell.column for e in placed)
        column = cell.column * PER_CELL + min(before, PER_CELL - 1)
        placed.append(Entry(entry.number, entry.span, column))
    return placed


def _parts(word: str) -> list[tuple[str, int]]:
    """The numbers of a word such as `71.2/79.1`, `3.1±0.2` or `25.02*`, with their offsets."""
    body = re.split(r"±", word)[0]
    return [(m.group(), m.start()) for m in re.finditer(r"[−-]?[\d.,]*\d%?", body)]


def _placed(part: tuple[str, int], offset: int) -> list[Number]:
    piece, at = part
    return [
        Number(
            n.value, n.text, n.decimals, offset + at + n.start, offset + at + n.end, n.is_percent
        )
        for n in numbers_in(piece)
    ]
