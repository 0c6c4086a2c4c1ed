"""Made-up papers, read from end to end: every place, order and kind is known."""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from paper_pdf import Sheet, width_of, write_pdf

from deepseek.apps.documents.document import Document
from deepseek.apps.documents.reader import read_document

TOPICS = ("window", "memory", "expert", "router", "cache", "token")


def prose(mark: str, sentences: int) -> str:
    """Sentences that are all different and say where they belong."""
    return " ".join(
        f"{mark} sentence {i} says that the {TOPICS[i % 6]} keeps a summary of earlier text."
        for i in range(sentences)
    )


@cache
def paper() -> bytes:
    """A two-column paper of two pages with all that belongs to one."""
    first, second = Sheet(), Sheet()
    for number, sheet in enumerate((first, second), start=1):
        sheet.text(200, 40, "Proceedings of the Made-up Conference", 8)
        sheet.text(295, 812, str(number), 9)
    first.text(110, 90, "Reading Long Documents with Small Models", 18, "bold")
    first.text(230, 115, "Ada Author and Bo Writer", 11)
    first.text(60, 150, "Abstract", 12, "bold")
    y = first.prose(60, 168, 225, prose("Abstract", 3))
    first.text(60, y + 14, "1 Introduction", 12, "bold")
    y = first.prose(60, y + 32, 225, prose("Left", 5))
    first.prose(60, y, 225, prose("Indented", 4), indent=12)
    y = first.prose(310, 150, 225, prose("Right", 4))
    first.text(310, y + 14, "2 Experiments", 12, "bold")
    y = first.prose(310, y + 32, 225, "We show the trans-")
    y = first.prose(310, y, 225, "former and the results. " + prose("Table", 2))
    for row, cells in enumerate(
        (
            ("Model", "P", "R", "F1"),
            ("ours", "81.2", "83.9", "82.5"),
            ("theirs", "70.1", "", "69.9"),
        )
    ):
        for column, cell in enumerate(cells):
            if cell:
                first.text(320 + (column and 60) + 45 * column, y + 12 + 14 * row, cell)
    y = first.prose(310, y + 62, 225, "Table 1: Scores of both models on the test set.", 9)
    first.text(310, 770, "1", 6)
    first.text(314, 773, "Code will be released.", 8)
    y = second.prose(60, 90, 225, prose("Second", 5))
    second.text(60, y + 14, "References", 12, "bold")
    for i in range(3):
        y = second.prose(
            60,
            y + (32 if not i else 4),
            225,
            f"[{i + 1}] A. Author. 202{i}. A work on {TOPICS[i]} number {i}. In Proc. of it.",
        )
    second.text(310, 90, "A Proofs", 12, "bold")
    second.prose(310, 108, 225, prose("Appendix", 5))
    return write_pdf([first, second], compress=True)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    path = tmp_path_factory.mktemp("paper") / "paper.pdf"
    path.write_bytes(paper())
    return read_document(path)


def spans_of(document: Document) -> Iterator[tuple[str, int, int, int]]:
    for name, items in (("block", document.blocks), ("sentence", document.sentences)):
        for item in items:
            for span in item.spans:
                yield name, span.page, span.start, span.end


def test_title_and_sections(document: Document) -> None:
    assert document.title == "Reading Long Documents with Small Models"
    assert [(s.title, s.role, s.page) for s in document.sections] == [
        ("", "front", 1),
        ("Abstract", "abstract", 1),
        ("1 Introduction", "introduction", 1),
        ("2 Experiments", "experiments", 1),
        ("References", "references", 2),
        ("A Proofs", "appendix", 2),
    ]


def test_sentences_in_reading_order(document: Document) -> None:
    marks = ("Abstract", "Left", "Indented", "Right", "Table", "Second", "Appendix")
    found = [document.text_of(s) for s in document.sentences]
    expected = [s + "." for mark, n in zip(marks, (3, 5, 4, 4, 2, 5, 5), strict=True)
                for s in prose(mark, n)[:-1].split(". ")]  # fmt: skip
    assert [s for s in found if s in set(expected)] == expected


def test_a_word_broken_at_a_line_end_is_whole(document: Document) -> None:
    assert any("We show the transformer and" in document.text_of(s) for s in document.sentences)


def test_a_sentence_is_a_slice_of_its_page_and_each_span_has_boxes_on_it(
    document: Document,
) -> None:
    for _, number, start, end in spans_of(document):
        page = document.pages[number - 1]
        assert page.number == number
        assert 0 <= start < end <= len(page.text)
        assert page.boxes is not None
        assert page.boxes.shape == (len(page.text), 4)
        boxes = page.boxes[start:end]
        inked = boxes[~np.isnan(boxes[:, 0])]
        assert len(inked)
        assert (inked[:, [0, 1]] >= 0).all()
        assert (inked[:, 2] <= page.width).all()
        assert (inked[:, 3] <= page.height).all()
        assert (inked[:, 0] <= inked[:, 2]).all()
    for sentence in document.sentences:
        parts = [document.pages[s.page - 1].text[s.start : s.end] for s in sentence.spans]
        assert document.text_of(sentence) == " ".join(parts)


def test_boxes_are_where_the_text_was_put(document: Document) -> None:
    page = document.pages[0]
    assert page.boxes is not None
    start = page.text.index("Abstract sentence 0")
    left, top, _, bottom = page.boxes[start]
    assert left == pytest.approx(60, abs=1.5)
    assert bottom == pytest.approx(168, abs=1.5)
    assert top == pytest.approx(168 - 7.2, abs=1.5)
    start = page.text.index("Right sentence 0")
    assert page.boxes[start][0] == pytest.approx(310, abs=1.5)


def test_blocks_do_not_overlap_and_sentences_lie_in_their_blocks(document: Document) -> None:
    spans = sorted(s for b in document.blocks for s in b.spans)
    assert all(a.page < b.page or a.end <= b.start for a, b in pairwise(spans))
    for sentence in document.sentences:
        block = document.blocks[sentence.block]
        for span in sentence.spans:
            assert any(
                b.page == span.page and b.start <= span.start and span.end <= b.end
                for b in block.spans
            )


def test_the_table_has_its_caption_cells_and_columns(document: Document) -> None:
    (table,) = document.tables
    assert [[(c.text, c.column) for c in row] for row in table.rows] == [
        [("Model", 0), ("P", 1), ("R", 2), ("F1", 3)],
        [("ours", 0), ("81.2", 1), ("83.9", 2), ("82.5", 3)],
        [("theirs", 0), ("70.1", 1), ("69.9", 3)],
    ]
    assert all(document.quote((c.span,)) == c.text for row in table.rows for c in row)
    assert table.caption is not None
    assert document.text_of(document.blocks[table.caption]) == (
        "Table 1: Scores of both models on the test set."
    )


def test_running_heads_and_page_numbers_are_dropped(document: Document) -> None:
    text = " ".join(page.text for page in document.pages)
    assert "Proceedings" not in text
    assert not any(
        block.kind == "paragraph" and document.text_of(block).isdigit() for block in document.blocks
    )


def test_references_are_entries_and_no_sentences(document: Document) -> None:
    entries = [document.text_of(b) for b in document.blocks if b.kind == "reference"]
    assert [entry[:3] for entry in entries] == ["[1]", "[2]", "[3]"]
    assert not any("In Proc" in document.text_of(s) for s in document.sentences)


def test_footnotes_are_told_from_text(document: Document) -> None:
    notes = [document.text_of(b) for b in document.blocks if b.kind == "footnote"]
    assert len(notes) == 1
    assert "Code will be released" in notes[0]


@pytest.mark.parametrize(("rotate", "angle"), [(0, 90), (90, 0), (180, 180), (270, 0), (90, 90)])
def test_turned_pages(read: Callable[..., Document], rotate: int, angle: int) -> None:
    """The text is upright for a reader or not; it is read in order, its boxes are as shown."""
    sheet = Sheet(rotate=rotate)
    lines = [f"Line {i} of a page that is turned in some way, with words enough." for i in range(6)]
    for i, text in enumerate(lines):
        places = {0: (100, 100 + 14 * i), 90: (100 + 14 * i, 600), 180: (500, 700 - 14 * i)}
        x, y = places[angle]
        sheet.text(x, y, text, angle=angle)
    sheet.text(400, 400, "axis", angle=angle + 90)
    page = read(sheet).pages[0]
    assert page.text.split(". ") == " ".join(lines).split(". ")
    x, y = {0: (100, 100), 90: (100, 600), 180: (500, 700)}[angle]
    shown = {0: (x, y), 90: (842 - y, x), 180: (595 - x, 842 - y), 270: (y, 595 - x)}[rotate]
    assert page.boxes is not None
    left, top, right, bottom = page.boxes[0]
    assert left - 2 <= shown[0] <= right + 2
    assert top - 2 <= shown[1] <= bottom + 2
    assert (page.width, page.height) == ((842, 595) if rotate % 180 else (595, 842))


def test_a_cropped_page(read: Callable[..., Document]) -> None:
    sheet = Sheet(crop=(50, 100, 545, 742))
    for i in range(5):
        sheet.text(150, 300 + 14 * i, f"Line {i} of a page whose edges are cut away for show.")
    page = read(sheet).pages[0]
    assert (page.width, page.height) == (495, 642)
    assert page.boxes is not None
    assert page.boxes[0][0] == pytest.approx(100, abs=1.5)
    assert page.boxes[0][3] == pytest.approx(200, abs=1.5)


def test_code_figures_and_contents_are_no_sentences(read: Callable[..., Document]) -> None:
    sheet = Sheet()
    sheet.text(60, 80, "1 Introduction ........................................ 7")
    y = sheet.prose(60, 110, 470, prose("First", 3))
    sheet.text(60, y + 10, "fit <- lmer(Reaction ~ Days, sleepstudy)", font="mono")
    sheet.text(60, y + 22, "summary(fit) # It prints. Much.", font="mono")
    y = sheet.prose(60, y + 50, 470, prose("Middle", 3))
    for i, label in enumerate(("Encoder", "Softmax layer", "Input words")):
        sheet.text(200 + 40 * i, y + 40 + 22 * i, label, 7)
    y = sheet.prose(60, y + 120, 470, "Figure 1: The parts of the model and their order.")
    sheet.prose(60, y + 14, 470, prose("Last", 3))
    document = read(sheet)
    kinds = {document.text_of(b)[:7]: b.kind for b in document.blocks}
    assert kinds["fit <- "] == "code"
    assert kinds["Encoder"] == kinds["Softmax"] == "figure"
    assert kinds["Figure "] == "caption"
    found = [document.text_of(s) for s in document.sentences if document.kind_of(s) == "paragraph"]
    assert found == [
        s + "." for m in ("First", "Middle", "Last") for s in prose(m, 3)[:-1].split(". ")
    ]


def test_the_same_file_is_read_the_same(document: Document, read: Callable[..., Document]) -> None:
    sheet = Sheet()
    sheet.prose(60, 100, 470, prose("Same", 6))
    one, two = read(sheet), read(sheet)
    assert one.id == two.id
    assert [p.text for p in one.pages] == [p.text for p in two.pages]
    assert (one.blocks, one.sentences) == (two.blocks, two.sentences)


def test_widths_of_the_writer() -> None:
    assert width_of("Hello", 10) == pytest.approx(22.78)
