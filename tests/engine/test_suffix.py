"""The automaton finds what a search through the whole text finds."""

import random

import pytest

from deepseek.engine.suffix import ROOT, SuffixAutomaton


def places(text: list[int], part: list[int]) -> list[int]:
    """Where a part ends in a text."""
    return [end for end in range(len(part), len(text) + 1) if text[end - len(part) : end] == part]


def longest(text: list[int], other: list[int]) -> int:
    """Length of the longest end of `other` that occurs in a text."""
    return max(n for n in range(len(other) + 1) if not n or places(text, other[len(other) - n :]))


@pytest.mark.parametrize("n_letters", [1, 2, 3, 20])
def test_the_longest_end_that_occurred_before(n_letters: int) -> None:
    generator = random.Random(n_letters)
    for _ in range(5):
        automaton, text = SuffixAutomaton(), []
        for _ in range(80):
            text.append(generator.randrange(n_letters))
            automaton.extend(text[-1:])
            match = automaton.match
            assert match.length == longest(text[:-1], text)
            if match.length:
                assert match.end in places(text, text[len(text) - match.length :])[:-1]


@pytest.mark.parametrize("n_letters", [2, 3, 20])
def test_ends_of_another_text_while_this_one_grows(n_letters: int) -> None:
    generator = random.Random(n_letters)
    for _ in range(5):
        automaton = SuffixAutomaton(generator.randrange(n_letters) for _ in range(40))
        state, length, other = ROOT, 0, []
        for _ in range(60):
            other.append(generator.randrange(n_letters))
            state, length = automaton.follow(state, length, other[-1])
            assert length == longest(automaton.tokens, other)
            if length:
                end = automaton.match_of(state, length).end
                assert end in places(automaton.tokens, other[len(other) - length :])


def test_an_end_that_is_followed_stays_one_when_the_text_grows() -> None:
    generator = random.Random(0)
    automaton = SuffixAutomaton([0, 1])
    state, length, other = ROOT, 0, []
    for _ in range(300):
        automaton.extend([generator.randrange(3)])
        other.append(generator.randrange(3))
        state, length = automaton.follow(state, length, other[-1])
        if length:
            end = automaton.match_of(state, length).end
            assert end in places(automaton.tokens, other[len(other) - length :])


def test_what_follows_goes_round_at_the_end() -> None:
    automaton = SuffixAutomaton([9, 1, 2, 3, 1, 2])
    assert automaton.match.length == 2
    assert automaton.after(automaton.match.end, 2) == [3, 1]
    assert automaton.after(automaton.match.end, 7) == [3, 1, 2, 3, 1, 2, 3]
    assert automaton.after(6, 3) == []


@pytest.mark.parametrize("n_letters", [2, 5])
def test_what_followed_and_whether_only_that(n_letters: int) -> None:
    generator = random.Random(n_letters)
    for _ in range(20):
        text = [generator.randrange(n_letters) for _ in range(60)]
        automaton = SuffixAutomaton(text)
        match = automaton.match
        steps = list(automaton.path(match, 8))
        assert [token for token, _, _ in steps] == automaton.after(match.end, 8)
        same = text[len(text) - match.length :] if match.length else []
        for token, length, is_alone in steps:
            assert length == longest(text, same)
            same = same[len(same) - length :]
            followers = {text[end] for end in places(text, same) if end < len(text)}
            assert is_alone == (len(followers) <= 1)
            same = [*same, token]
