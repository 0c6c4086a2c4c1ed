"""Tables' cells: columns found from gaps, shared headings, cells too close to be runs."""

from glyph_page import line, run

from deepseek.apps.documents.cells import align_cells, column_edges


def rows(*texts: list[tuple[str, float]]) -> list:  # type: ignore[type-arg]
    return [line(*(run(text, x, 100 + 12 * i) for text, x in row)) for i, row in enumerate(texts)]


def test_cells_of_a_column_have_its_number_past_empty_cells() -> None:
    table = rows(
        [("Model", 50), ("P", 150), ("R", 200), ("F1", 250)],
        [("ours", 50), ("81.2", 145), ("83.9", 195), ("82.5", 245)],
        [("theirs", 50), ("70.1", 245)],
    )
    assert align_cells(table) == [
        [(0, 1), (1, 1), (2, 1), (3, 1)],
        [(0, 1), (1, 1), (2, 1), (3, 1)],
        [(0, 1), (3, 1)],
    ]


def test_a_heading_over_several_columns_says_so() -> None:
    table = rows(
        [("Scores on the dev set", 140)],
        [("Model", 50), ("P", 150), ("R", 200), ("F1", 250)],
        [("ours", 50), ("81.2", 145), ("83.9", 195), ("82.5", 245)],
        [("theirs", 50), ("81.2", 145), ("83.9", 195), ("82.5", 245)],
    )
    assert align_cells(table)[0] == [(1, 3)]


def test_a_run_over_two_columns_is_cut_at_its_wide_space() -> None:
    header = run("P R", 100, 100)
    header.boxes = [(100.0, 100.0, 105.0, 107.0), None, (112.0, 100.0, 117.0, 107.0)]
    header.right = 117.0
    body = [line(run("1", 100, 112 + 12 * i), run("2", 112, 112 + 12 * i)) for i in range(4)]
    table = [line(header), *body]
    places = align_cells(table)
    assert [r.text for r in table[0].runs] == ["P", "R"]
    assert places[0] == [(0, 1), (1, 1)]


def test_words_of_one_cell_stay_together() -> None:
    table = rows(
        [("Tan et al", 50), ("1.0", 150)],
        [("He and others", 50), ("2.0", 150)],
        [("Ours", 50), ("3.0", 150)],
    )
    assert len(column_edges(table)) == 1
    align_cells(table)
    assert [r.text for r in table[1].runs] == ["He and others", "2.0"]


def test_a_table_of_one_column() -> None:
    assert align_cells(rows([("only", 50)], [("one", 50)])) == [[(0, 1)], [(0, 1)]]
