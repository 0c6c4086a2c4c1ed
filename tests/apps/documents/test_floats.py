"""What is gathered around captions."""

from glyph_page import line, run

from deepseek.apps.documents.blocks import RawBlock, column_blocks
from deepseek.apps.documents.columns import Column
from deepseek.apps.documents.floats import gather_floats
from deepseek.apps.documents.lines import Run

PROSE = "This is a line of prose that fills the whole column of it"  # 57 characters, 285 points


def blocks(*lines: list[Run]) -> list[RawBlock]:
    column = Column([line(*runs) for runs in lines], left=50.0, right=335.0)
    found = column_blocks(column, 2, 10.0, 800.0)
    gather_floats([found], 10.0)
    return found


def prose(top: float, count: int = 2, end: str = ".") -> list[list[Run]]:
    lines = [[run(PROSE, 50, top + 12 * i)] for i in range(count)]
    lines[-1] = [run(PROSE[:40] + end, 50, top + 12 * (count - 1))]
    return lines


def row(top: float, *cells: str) -> list[Run]:
    return [run(cell, 60 + 80 * i, top) for i, cell in enumerate(cells)]


def test_a_table_cut_by_rules_is_one_with_its_heading_row() -> None:
    found = blocks(
        *prose(100),
        [run("Test scores", 140, 150)],
        row(164, "Model", "P", "R"),
        row(184, "ours", "81.2", "83.9"),
        row(204, "theirs", "70.1", "69.9"),
        [run("Table 1: Scores of both.", 50, 226)],
        *prose(260),
    )
    assert [block.kind for block in found] == ["paragraph", "table", "caption", "paragraph"]
    assert len(found[1].lines) == 4
    assert found[1].caption is found[2]


def test_the_side_on_which_tables_stand_is_the_documents() -> None:
    captions_above = []
    for top in (100, 200):
        captions_above += [
            [run(f"Table {top // 100}: Scores of both.", 50, top)],
            row(top + 20, "ours", "81.2", "83.9"),
            row(top + 34, "theirs", "70.1", "69.9"),
        ]
    found = blocks(*captions_above, *prose(270))
    tables = [block for block in found if block.kind == "table"]
    assert [table.caption and table.caption.lines[0].text[:7] for table in tables] == [
        "Table 1",
        "Table 2",
    ]


def test_labels_above_a_caption_are_the_figures_and_prose_is_not() -> None:
    found = blocks(
        *prose(100),
        [run("Softmax", 150, 160, 7)],
        [run("Encoder", 200, 190, 7)],
        [run("Figure 1: The parts of the model.", 50, 230)],
        *prose(260),
    )
    assert [block.kind for block in found] == [
        "paragraph",
        "figure",
        "figure",
        "caption",
        "paragraph",
    ]


def test_a_table_named_at_the_start_of_a_line_is_no_caption() -> None:
    found = blocks(
        [run(PROSE, 50, 100)],
        [run("Table 2. We use all of the data that others have used here", 50, 112)],
        [run(PROSE[:30] + ".", 50, 124)],
    )
    assert [block.kind for block in found] == ["paragraph"]


def test_code_is_no_prose() -> None:
    found = blocks(
        *prose(100, end=":"),
        [run("model <- fit(y ~ x)", 50, 136, mono=True)],
        [run("print(model)", 50, 148, mono=True)],
        *prose(172),
    )
    assert [block.kind for block in found] == ["paragraph", "code", "paragraph"]
    assert len(found[1].lines) == 2
