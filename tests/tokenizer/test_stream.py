import random

import pytest
from corpus import corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vocabulary import tiny_metadata

from deepseek.tokenizer.tokenizer import Tokenizer

TINY = Tokenizer.from_gguf_metadata(tiny_metadata())


def streamed(tokenizer: Tokenizer, ids: list[int]) -> tuple[list[str], str]:
    decoder = tokenizer.stream_decoder()
    return [decoder.push(i) for i in ids], decoder.flush()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, TINY.vocab_size + 3), max_size=60))
def test_pieces_join_to_the_whole_for_any_ids(ids: list[int]) -> None:
    pieces, rest = streamed(TINY, ids)
    assert "".join(pieces) + rest == TINY.decode(ids)


def test_a_character_is_held_back_until_it_is_complete() -> None:
    for character in "é世🌍":
        ids = TINY.encode(character)
        assert len(ids) == len(character.encode())
        pieces, rest = streamed(TINY, ids)
        assert pieces == [""] * (len(ids) - 1) + [character]
        assert rest == ""


def test_a_character_that_never_ends_is_replaced_at_the_end() -> None:
    pieces, rest = streamed(TINY, TINY.encode("a🌍")[:-1])
    assert (pieces, rest) == (["a", "", "", ""], "\ufffd")


def test_a_broken_character_does_not_swallow_the_next() -> None:
    pieces, rest = streamed(TINY, TINY.encode("世")[:2] + TINY.encode("hello"))
    assert "".join(pieces) + rest == "\ufffdhello"


def test_control_tokens_are_silent_even_inside_a_character() -> None:
    first, *others = TINY.encode("世")
    end = TINY.encode("<|im_end|>", control=True)
    pieces, rest = streamed(TINY, [first, *end, *others])
    assert "".join(pieces) + rest == TINY.decode([first, *end, *others]) == "世"


@pytest.mark.weights
def test_real_text_streams_to_itself(smollm2: Tokenizer) -> None:
    for line in random.Random(4).sample(corpus(), 300):
        ids = smollm2.encode(line)
        pieces, rest = streamed(smollm2, ids)
        assert "".join(pieces) + rest == smollm2.decode(ids)
