"""Stop strings are found across any cut of the text and never shown in part."""

import itertools

import pytest

from deepseek.engine.stopping import StopFinder


def shown(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    finder = StopFinder(stops)
    text = "".join(finder.push(piece) for piece in pieces)
    return text + finder.flush(), finder.found


@pytest.mark.parametrize(
    ("stops", "text", "wanted"),
    [
        (("END",), "one two END three", "one two "),
        (("END",), "one two EN", "one two EN"),
        (("aab",), "aaaab", "aa"),
        (("abc", "b"), "xxabc", "xxa"),
        (("\n\n", "###"), "a\nb##\n\nc", "a\nb##"),
        (("好的",), "是好的。", "是"),
        ((), "anything", "anything"),
        (("x",), "x", ""),
    ],
)
def test_every_cut_gives_the_same_text(stops: tuple[str, ...], text: str, wanted: str) -> None:
    found = any(stop in text for stop in stops)
    for n_cuts in range(4):
        for cuts in itertools.combinations(range(1, len(text)), n_cuts):
            edges = [0, *cuts, len(text)]
            pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
            assert shown(stops, pieces) == (wanted, found)
    assert shown(stops, list(text)) == (wanted, found)


def test_text_is_held_back_no_longer_than_needed() -> None:
    finder = StopFinder(("stop",))
    assert [finder.push(p) for p in ("a", "s", "t", "x", "sto")] == ["a", "", "", "stx", ""]
    assert finder.flush() == "sto"


def test_nothing_is_shown_after_a_stop() -> None:
    finder = StopFinder(("!",))
    assert finder.push("a!b") == "a"
    assert finder.push("c") == ""
    assert finder.flush() == ""
