"""Pages are shared until someone writes, and come back when nobody uses them."""

import random

import pytest
import torch

from deepseek.core.errors import RequestError
from deepseek.model.pages import BLOCK, GONE, ColdPages, PagedSequence, PagePool
from deepseek.ops.cold import ColdTier
from deepseek.ops.hierarchical import PAGE
from tiny_checkpoint import tiny_config


def number_at(pool: PagePool, page: int, place: int) -> torch.Tensor:
    """Something that a page holds of a position, in the last layer."""
    return pool.pages.of(page)[0][-1, 0, place]


def write(sequence: PagedSequence, pool: PagePool, tokens: list[int]) -> None:
    """Let each token's key say which it is."""
    missing, n_used = sequence.missing(len(tokens)), pool.n_used
    new = sequence.extend(len(tokens))
    assert missing == (pool.n_used - n_used, 0, 0)
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


TIER = ColdTier(bits=8, sinks=64, window=128, slack=192)


class Tiered:
    """Pools of pages as they are and of cold ones; a test's own hand writes both."""

    def __init__(self) -> None:
        config = tiny_config()
        self.hot, self.cold = PagePool(config), PagePool(config, bits=8)
        self.memory = PagePool(config, has_values=False)
        self.n_expanded = 0
        self.n_left = 1_000
        """How many pages are expanded before one cannot be."""

    def sequence(self) -> PagedSequence:
        cold = ColdPages(pool=self.cold, tier=TIER, expand=self._expand)
        return PagedSequence(self.hot, self.memory, cold)

    def _expand(self, cold_page: int, page: int) -> None:
        if self.n_left == 0:
            raise RequestError("it cannot be read")
        self.n_expanded += 1
        self.n_left -= 1
        for place in range(PAGE):
            token = int(number_at(self.cold, cold_page, place))
            number_at(self.hot, page, place).fill_(token)

    def write(self, sequence: PagedSequence, tokens: list[int]) -> None:
        """What the library does: keep tokens, seal pages that they complete."""
        new = sequence.extend(len(tokens))
        end = new.length + len(tokens)
        for place, token in enumerate(tokens, new.length):
            number_at(self.hot, new.pages[place // PAGE], place % PAGE).fill_(token)
        for page in range(new.length // PAGE, end // PAGE):
            for place in range(PAGE):
                token = int(number_at(self.hot, new.pages[page], place))
                number_at(self.cold, new.cold[page], place).fill_(token)
        sequence.advance(len(tokens))

    def check(self, sequence: PagedSequence, tokens: list[int]) -> None:
        """What later tokens may look at says what was written."""
        new = sequence.extend(0)
        assert len(new.cold) == len(tokens) // PAGE
        start = TIER.window_start(len(tokens) // PAGE)
        for page, number in enumerate(new.pages):
            wanted = tokens[page * PAGE : (page + 1) * PAGE]
            if page < TIER.sinks // PAGE or page >= start:
                assert number != GONE
            if number != GONE:
                assert [int(number_at(self.hot, number, i)) for i in range(len(wanted))] == wanted
            if page < len(new.cold):
                cold = new.cold[page]
                assert [int(number_at(self.cold, cold, i)) for i in range(PAGE)] == wanted
        sequence.advance(0)


@pytest.mark.parametrize("seed", range(8))
def test_random_histories_with_cold_pages(seed: int) -> None:
    """Forks, writes and cuts far back against plain lists."""
    generator = random.Random(seed)
    pools = Tiered()
    sequences = [(pools.sequence(), list[int]())]
    for _ in range(40):
        sequence, tokens = generator.choice(sequences)
        match generator.randrange(5):
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
                fresh = [generator.randrange(200) for _ in range(generator.randrange(1, 500))]
                pools.write(sequence, fresh)
                tokens += fresh
        for each, wanted in sequences:
            pools.check(each, wanted)
    for sequence, _ in sequences:
        sequence.release()
    assert (pools.hot.n_used, pools.cold.n_used, pools.memory.n_used) == (0, 0, 0)


def test_pages_behind_window_and_slack_are_given_back() -> None:
    pools = Tiered()
    sequence = pools.sequence()
    tokens = [i % 251 for i in range(20 * PAGE + 7)]
    for start in range(0, len(tokens), 3 * PAGE):
        pools.write(sequence, tokens[start : start + 3 * PAGE])
    kept = (TIER.sinks + TIER.window + TIER.slack) // PAGE + 1
    assert pools.hot.n_used == kept
    assert pools.cold.n_used == 20
    sequence.truncate(len(tokens) - TIER.slack)
    assert pools.n_expanded == 0, "so far nothing was given back"
    sequence.truncate(9 * PAGE + 5)
    assert pools.n_expanded == 3, "the new window, and the page that is begun"
    pools.check(sequence, tokens[: 9 * PAGE + 5])
    fork = sequence.fork(4 * PAGE)
    assert pools.n_expanded == 5
    pools.check(fork, tokens[: 4 * PAGE])
    fork.release()
    sequence.release()
    assert (pools.hot.n_used, pools.cold.n_used) == (0, 0)


def test_pages_that_cannot_be_made_from_their_cold_form() -> None:
    """A fork is not made then, and what is cut is empty; no page is lost either way."""
    pools = Tiered()
    sequence = pools.sequence()
    for _ in range(7):
        pools.write(sequence, [3] * 3 * PAGE)
    used = pools.hot.n_used, pools.cold.n_used, pools.memory.n_used
    pools.n_left = 1
    with pytest.raises(RequestError, match="cannot be read"):
        sequence.fork(9 * PAGE)
    assert (pools.hot.n_used, pools.cold.n_used, pools.memory.n_used) == used
    assert sequence.length == 21 * PAGE
    with pytest.raises(RequestError, match="cannot be read"):
        sequence.truncate(9 * PAGE)
    assert sequence.length == 0
    assert (pools.hot.n_used, pools.cold.n_used, pools.memory.n_used) == (0, 0, 0)
    pools.write(sequence, [5] * 100)
    pools.check(sequence, [5] * 100)


def test_pools_grow_without_moving_anything() -> None:
    pool = PagePool(tiny_config())
    places = {t.data_ptr() for t in (*pool.pages.keys, *pool.pages.values)}
    size = pool.n_bytes
    pages = [pool.take() for _ in range(3 * BLOCK)]
    assert sorted(pages) == list(range(3 * BLOCK))
    assert pool.n_bytes == 3 * size
    assert places <= {t.data_ptr() for t in (*pool.pages.keys, *pool.pages.values)}
    for page in pages:
        pool.give_back(page)
    assert [pool.take() for _ in pages]
    assert pool.n_bytes == 3 * size, "what is free is used first"
