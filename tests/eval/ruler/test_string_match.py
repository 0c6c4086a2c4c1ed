"""RULER's metrics, by hand."""

import pytest

from deepseek.eval.ruler.scoring import string_match_all, string_match_part


def test_all_is_the_share_that_is_found() -> None:
    assert string_match_all("They are 12 and 34.", ["12", "34"]) == 100
    assert string_match_all("12, 56", ["12", "34", "56", "78"]) == 50
    assert string_match_all("ABC", ["abc"]) == 100
    assert string_match_all("", ["abc"]) == 0
    # Parts of longer words count, as in RULER.
    assert string_match_all("1234", ["12", "34", "5"]) == pytest.approx(200 / 3)


def test_part_is_whether_one_is_found() -> None:
    assert string_match_part("In paris.", ["Rome", "Paris"]) == 100
    assert string_match_part("London", ["Rome", "Paris"]) == 0


def test_unprintable_characters_divide() -> None:
    assert string_match_all("New\x01York", ["New York"]) == 0
    assert string_match_all("New\tYork", ["New\nYork"]) == 100
