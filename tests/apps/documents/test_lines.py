"""Glyphs to runs: gaps, ligatures, hyphens, styles."""

import pytest
from glyph_page import glyph_page

from deepseek.apps.documents.accents import compose_accents
from deepseek.apps.documents.lines import HYPHEN, page_runs


def texts(*pieces: tuple) -> list[str]:  # type: ignore[type-arg]
    return [run.text for run in page_runs(glyph_page(*pieces))]


def test_a_wide_gap_parts_runs_and_a_word_space_does_not() -> None:
    assert texts(("two words", 50, 100), ("cell", 120, 100)) == ["two words", "cell"]
    assert texts(("near", 50, 100), ("by", 75, 100)) == ["nearby"]


def test_a_line_break_ends_a_run() -> None:
    assert texts(("one\n", 50, 100), ("two", 50, 112)) == ["one", "two"]


@pytest.mark.parametrize(
    ("printed", "read"),
    [
        ("e\ufb03cient", "efficient"),
        ("\ufb01rst", "first"),
        ("a\u00a0b", "a b"),
        ("a\u200bb\x07", "a\u200bb"),
    ],
)
def test_ligatures_open_and_odd_characters_become_plain(printed: str, read: str) -> None:
    (found,) = page_runs(glyph_page((printed, 50, 100)))
    assert found.text == read
    assert len(found.boxes) == len(found.text)


@pytest.mark.parametrize("mark", ["\x02", "\u00ad", "\ufffe"])
def test_every_sign_for_a_hyphen_at_a_line_end_is_one(mark: str) -> None:
    assert texts((f"exam{mark}\n", 50, 100), ("ple", 50, 112)) == [f"exam{HYPHEN}", "ple"]


def test_tilted_text_is_left_out() -> None:
    assert texts(("axis", 20, 300, 10, "t"), ("text", 50, 100)) == ["text"]


def test_size_is_the_texts_not_its_indices() -> None:
    (found,) = page_runs(
        glyph_page(("d", 50, 100, 10), ("model", 55, 103, 7), (" is", 75, 100, 10))
    )
    assert found.size == 10


def test_bold_and_typewriter_need_most_of_the_characters() -> None:
    bold, plain, code = page_runs(
        glyph_page(
            ("Results\n", 50, 100, 10, "b"), ("a mixture\n", 50, 120), ("x = f()", 50, 140, 10, "m")
        )
    )
    assert (bold.bold, plain.bold, code.mono) == (True, False, True)
    assert not plain.mono


@pytest.mark.parametrize(
    ("pieces", "read"),
    [
        # The accent comes before, after, or at the end of the line.
        ([("T", 50, 100), ("\u00a8", 55, 99), ("ubingen", 55, 100)], "Tübingen"),
        ([("Tu", 50, 100), ("\u00a8", 55, 99), ("bingen", 60, 100)], "Tübingen"),
        ([("Marquez", 50, 100), ("`", 55, 98)], "Màrquez"),
        ([("Llu\u0131s", 50, 100), ("\u00b4", 65, 99)], "Lluís"),
    ],
)
def test_an_accent_joins_the_letter_under_it(pieces: list[tuple], read: str) -> None:  # type: ignore[type-arg]
    runs = page_runs(compose_accents(glyph_page(*pieces)))
    assert "".join(run.text for run in runs) == read


def test_a_quotation_mark_is_no_accent() -> None:
    page = glyph_page(("`quoted'", 50, 100))
    assert [run.text for run in page_runs(compose_accents(page))] == ["`quoted'"]
