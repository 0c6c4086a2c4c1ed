"""Reading order on made-up runs."""

import pytest
from glyph_page import run
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.apps.documents.columns import find_gutter, reading_order, to_lines

PROSE = "prose that fills a column's width"  # 34 characters, 170 points


def order(runs: list) -> list[str]:  # type: ignore[type-arg]
    return [line.text for column in reading_order(runs, 600.0) for line in column.lines]


def two_columns(top: float = 100, rows: int = 8) -> list:  # type: ignore[type-arg]
    return [
        run(f"{side}{i} {PROSE}", x, top + 12 * i)
        for i in range(rows)
        for side, x in (("L", 50), ("R", 320))
    ]


def test_the_left_column_is_read_before_the_right_one() -> None:
    marks = [text[:2] for text in order(two_columns())]
    assert marks == [f"L{i}" for i in range(8)] + [f"R{i}" for i in range(8)]


def test_a_wide_line_cuts_the_page_into_bands() -> None:
    wide = run("a title across both columns of the page, wide enough to cross", 100, 60)
    caption = run("a caption below the first band that crosses the middle as well", 100, 210)
    below = [run("XX" + r.text[2:], r.left, r.top + 140) for r in two_columns()]
    found = [text[:2] for text in order([*two_columns(), *below, caption, wide])]
    assert found[0] == "a "
    assert found[1:17] == [f"L{i}" for i in range(8)] + [f"R{i}" for i in range(8)]
    assert found[17] == "a "
    assert found[18:] == ["XX"] * 16


def test_a_page_of_one_column_has_no_gutter() -> None:
    runs = [run(f"{PROSE} {PROSE} {PROSE}", 50, 100 + 12 * i) for i in range(20)]
    assert find_gutter(runs, 600.0) is None
    assert len(reading_order(runs, 600.0)) == 1


def test_a_table_over_both_columns_is_read_row_by_row() -> None:
    cells = [
        run(f"{row}.{column}", 60 + 80 * column, 60 + 12 * row)
        for row in range(4)
        for column in range(6)
    ]
    caption = run("Table 1: Scores of all systems on the three sets of test data.", 110, 116)
    found = order([*cells, caption, *two_columns(top=150)])
    assert found[:4] == [" ".join(f"{row}.{column}" for column in range(6)) for row in range(4)]
    assert found[4].startswith("Table 1")
    assert [text[:2] for text in found[5:13]] == [f"L{i}" for i in range(8)]


def test_an_exponent_is_on_the_line_of_its_base() -> None:
    (found,) = to_lines([run("x", 50, 100), run("2", 55.5, 97, 7), run("is a square", 66, 100)])
    assert found.text == "x2 is a square"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text("abc de", min_size=1, max_size=60).map(lambda t: f"x{t.strip()}x"),
            st.integers(0, 560),
            st.integers(0, 780),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_every_character_is_read_once(pieces: list[tuple[str, int, int]]) -> None:
    runs = [run(text, x, y) for text, x, y in pieces]
    read = "".join(order(runs)).replace(" ", "")
    assert sorted(read) == sorted("".join(text for text, _, _ in pieces).replace(" ", ""))


@pytest.mark.parametrize("count", [0, 1])
def test_nearly_empty_pages(count: int) -> None:
    assert len(order([run("word", 50, 100)][:count])) == count
