"""Pages are shared until someone writes, and come back when nobody uses them."""

import random

import pytest
import torch

from deepseek.model.pages import PagedSequence, PagePool
from deepseek.ops.hierarchical import PAGE
from tiny_checkpoint import tiny_config


def number_at(pool: PagePool, page: int, place: int) -> torch.Tensor:
    """Something that a page holds of a position, in the last layer."""
    return pool.pages.of(page)[0][-1, 0, place]


def write(sequence: PagedSequence, pool: PagePool, tokens: list[int]) -> None:
    """Let each token's key say which it is."""
    new = sequence.extend(len(tokens))
    for i, token in enumerate(tokens):
        place = new.length + i
        number_at(pool, new.pages[place // PAGE], place % PAGE).fill_(token)
    sequence.advance(len(tokens))


def read(sequence: PagedSequence, pool: PagePool) -> list[int]:
    pages = sequence.fork(sequence.length)
    new = pages.extend(0)
    found = [
        int(number_at(pool, new.pages[place // PAGE], place % PAGE)) for place in range(new.length)
    ]
    pages.release()
    return found


@pytest.mark.parametrize("seed", range(10))
def test_random_histories(seed: int) -> None:
    """Forks, writes and cuts against plain lists."""
    generator = random.Random(seed)
    pool = PagePool(tiny_config())
    sequences = [(PagedSequence(pool), list[int]())]
    for _ in range(60):
        sequence, tokens = generator.choice(sequences)
        match generator.randrange(4):
            case 0:
                n = generator.randrange(len(tokens) + 1)
                sequences.append((sequence.fork(n), tokens[:n]))
            case 1 if len(sequences) > 1:
                sequence.release()
                sequences.remove((sequence, tokens))
            case 2:
                n = generator.randrange(len(tokens) + 1)
                sequence.truncate(n)
                del tokens[n:]
            case _:
                fresh = [generator.randrange(100) for _ in range(generator.randrange(1, 150))]
                write(sequence, pool, fresh)
                tokens += fresh
    for sequence, tokens in sequences:
        assert read(sequence, pool) == tokens
        assert sequence.length == len(tokens)
    for sequence, _ in sequences:
        sequence.release()
    assert pool.n_used == 0


def test_a_sequence_cannot_be_cut_longer() -> None:
    pool = PagePool(tiny_config())
    sequence = PagedSequence(pool)
    write(sequence, pool, [1, 2, 3])
    with pytest.raises(ValueError, match="truncate 3 tokens to 4"):
        sequence.truncate(4)
    assert pool.n_bytes == sum(t.nbytes for t in (*pool.pages.keys, *pool.pages.values))
    assert [int(number_at(pool, 0, place)) for place in range(3)] == [1, 2, 3]
