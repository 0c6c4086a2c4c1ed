"""Texts fill the room they have, and few counts find how."""

import pytest
from word_model import WordModel

from deepseek.core.errors import RequestError
from deepseek.eval.lengths import (
    DEFAULT,
    context_lengths,
    count_tokens,
    fitting_size,
    largest_fit,
    prompt_room,
)
from deepseek.eval.task import Setup


@pytest.mark.parametrize("room", [13, 14, 37, 1_000, 123_456, 4_000_000])
@pytest.mark.parametrize("least", [1, 5])
def test_the_largest_that_fits(room: int, least: int) -> None:
    counts: list[int] = []

    def count(n: int) -> int:
        counts.append(n)
        return 8 + n + n // 7

    best = largest_fit(count, room, least)
    assert 8 + best + best // 7 <= room < 8 + best + 1 + (best + 1) // 7
    assert len(counts) < 16


def test_pieces_that_do_not_cost_alike() -> None:
    counts: list[int] = []

    def count(n: int) -> int:
        counts.append(n)
        return n * n // 50 + 1

    assert largest_fit(count, 1_000_000, 1) == 7_071
    assert len(counts) < 40


def test_nothing_fits() -> None:
    with pytest.raises(RequestError, match=r"has 12 tokens, 11 are left for it") as error:
        largest_fit(lambda n: n + 7, 11, 5)
    assert "--lengths" in error.value.hint


def test_a_size_is_kept_while_it_fits() -> None:
    model = WordModel()
    setup = Setup(shots=0, model=model)
    assert fitting_size(lambda n: "word " * n, setup, 50, 1, size=40) == 40
    assert model.counted == 1
    assert fitting_size(lambda n: "word " * n, setup, 50, 1, size=53) == 50
    assert model.counted == 3
    # A text that does not fit near the size is searched anew.
    assert fitting_size(lambda n: "two words " * n, setup, 50, 20, size=21) == 21
    assert fitting_size(lambda n: "two words " * n, setup, 50, 20, size=26) == 25
    assert fitting_size(lambda n: "word " * (n if n < 9 else 99), setup, 50, 8, size=9) == 8


def test_room_for_answer_and_template() -> None:
    assert prompt_room(Setup(shots=0), 1_000, 100) == 898
    assert prompt_room(Setup(shots=0, chat=True), 1_000, 100) == 804


def test_lengths_must_fit_the_window() -> None:
    assert context_lengths(Setup(shots=0)) == DEFAULT
    assert context_lengths(Setup(shots=0, lengths=(10**6,))) == (10**6,)
    small = WordModel(2_048)
    assert context_lengths(Setup(shots=0, model=small, lengths=(512, 2_048))) == (512, 2_048)
    for lengths in ((), (512, 2_049), (0,)):
        with pytest.raises(RequestError, match=r"does not fit the model's window of 2,048"):
            context_lengths(Setup(shots=0, model=small, lengths=lengths))


def test_counts_without_a_model_are_estimates() -> None:
    assert count_tokens(Setup(shots=0), "123456789") == 3
