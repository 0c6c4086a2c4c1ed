"""Running heads go, what only stands where they stand stays."""

from glyph_page import run

from deepseek.apps.documents.furniture import drop_furniture


def kept(*pages: list) -> list[list[str]]:  # type: ignore[type-arg]
    return [[r.text for r in page] for page in drop_furniture([(p, 800.0) for p in pages])]


def test_heads_feet_and_numbers_go() -> None:
    pages = [
        [
            run("A. Author et al.", 50, 30),
            run(f"First words of page {i} are its own: {'abcdefgh'[i]}", 50, 80),
            run(f"Published at X, page {i} of 8", 50, 770),
            run(str(i), 290, 785),
        ]
        for i in range(8)
    ]
    assert [len(page) for page in kept(*pages)] == [1] * 8


def test_numbers_in_the_same_row_of_tables_at_the_top_of_pages_stay() -> None:
    pages = [
        [run(f"Model {'abcdefgh'[i]}", 50, 70)]
        + [run(f"{i}{j}.5", 120 + 60 * j, 70 + 14 * k) for j in range(4) for k in range(2)]
        for i in range(8)
    ]
    assert [len(page) for page in kept(*pages)] == [9] * 8


def test_a_line_that_repeats_inside_the_page_stays() -> None:
    pages = [
        [run(f"Own first line {'abcdefgh'[i]}", 50, 60), run("Remark", 50, 100)] for i in range(8)
    ]
    assert kept(*pages) == [[f"Own first line {'abcdefgh'[i]}", "Remark"] for i in range(8)]


def test_two_pages_alike_at_the_top_are_enough_in_a_short_paper() -> None:
    pages = [[run("Short title", 50, 30), run(f"Text {c}", 50, 200)] for c in "ab"]
    assert kept(*pages) == [["Text a"], ["Text b"]]
