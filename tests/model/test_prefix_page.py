"""Files of single pages: what comes back is what was written, or an error."""

import os
import random
from pathlib import Path

import pytest
import torch

from deepseek.core.errors import ContextError
from deepseek.model.context_file import LARGEST, check_numbers
from deepseek.model.pages import PagePool
from deepseek.model.prefix_page import (
    FIELDS,
    HEADER_BYTES,
    first_key,
    header_of,
    key_after,
    read_page,
)
from deepseek.ops import native
from deepseek.ops.hierarchical import GROUP, PAGE
from tiny_checkpoint import tiny_config

has_kernels = pytest.mark.skipif(not native.is_available(), reason="checksums are the library's")
IDENTITY, KEY, N_BYTES = bytes(range(32)), bytes(range(100, 132)), 5_000
CONTENT = torch.arange(N_BYTES).to(torch.uint8)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    file = tmp_path / "page"
    file.write_bytes(header_of(IDENTITY, KEY, CONTENT) + CONTENT.numpy().tobytes())
    return file


def is_refused(file: Path) -> bool:
    try:
        read_page(file, IDENTITY, KEY, N_BYTES)
    except ContextError:
        return True
    return False


@has_kernels
def test_what_was_written_comes_back(page: Path) -> None:
    assert torch.equal(read_page(page, IDENTITY, KEY, N_BYTES), CONTENT)


@has_kernels
def test_every_flipped_bit_of_the_header_and_many_of_the_content_are_found(page: Path) -> None:
    data, generator = page.read_bytes(), random.Random(1)
    places = [*range(HEADER_BYTES), *generator.choices(range(HEADER_BYTES, len(data)), k=100)]
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << generator.randrange(8)
        page.write_bytes(changed)
        assert is_refused(page), place


@has_kernels
@pytest.mark.parametrize("size", [0, 1, FIELDS.size, HEADER_BYTES, 3_000, 5_127, 5_129, 1 << 20])
def test_another_size_is_refused(page: Path, size: int) -> None:
    os.truncate(page, size)
    assert is_refused(page)


@has_kernels
@pytest.mark.parametrize("other", ["identity", "key", "size"])
def test_another_page_is_refused(page: Path, other: str) -> None:
    with pytest.raises(ContextError):
        read_page(
            page,
            KEY if other == "identity" else IDENTITY,
            IDENTITY if other == "key" else KEY,
            N_BYTES + (other == "size"),
        )


@has_kernels
def test_no_links_are_followed_and_no_pipe_is_waited_for(page: Path) -> None:
    link, pipe = page.with_name("link"), page.with_name("pipe")
    link.symlink_to(page)
    os.mkfifo(pipe)
    with pytest.raises(OSError, match=r"link|symbolic"):
        read_page(link, IDENTITY, KEY, N_BYTES)
    assert is_refused(pipe)
    with pytest.raises(FileNotFoundError):
        read_page(page.with_name("none"), IDENTITY, KEY, N_BYTES)


def test_keys_tell_all_tokens_and_tenants_apart() -> None:
    a, b, c = (tuple(range(n, n + PAGE)) for n in (0, 1, 2))
    paths = [(a,), (b,), (a, b), (b, a), (a, a), (a, b, c), (c, b)]
    keys = set()
    for tenant in ("", "one", "two"):
        for path in paths:
            key = first_key(tenant)
            for tokens in path:
                key = key_after(key, tokens)
            keys.add(key)
    assert len(keys) == 3 * len(paths)


@pytest.mark.parametrize("seed", range(20))
def test_numbers_are_checked_by_their_bits_as_they_are_by_their_size(seed: int) -> None:
    """Random bits, of few numbers, so that both outcomes are seen."""
    generator = torch.Generator().manual_seed(seed)
    for n in (0, 1, 2, 5):
        for _ in range(50):
            bits = torch.randint(-(1 << 15), 1 << 15, (n,), generator=generator)
            numbers = bits.to(torch.int16).view(torch.bfloat16)
            assert is_accepted(numbers) == is_accepted(numbers.float())


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_number_that_is_accepted(sign: int) -> None:
    largest = torch.tensor([sign * LARGEST], dtype=torch.bfloat16)
    assert is_accepted(largest)
    assert not is_accepted((largest.view(torch.int16) + 1).view(torch.bfloat16))
    for bad in (torch.inf, torch.nan):
        assert not is_accepted(torch.tensor([1.0, sign * bad], dtype=torch.bfloat16))


def is_accepted(numbers: torch.Tensor) -> bool:
    try:
        check_numbers(numbers)
    except ContextError:
        return False
    return True


def test_nodes_of_one_page_leave_those_of_others_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    pool = PagePool(tiny_config(), has_values=False)
    one, other = pool.take(), pool.take()
    for page in (one, other):
        (there,) = pool.pages.of(page)
        there.copy_(torch.randn(there.shape, generator=generator))
    before = [pool.read_nodes(other, place) for place in range(GROUP)]
    assert all(len(nodes) == pool.node_bytes for nodes in before)
    for place in (0, 7, GROUP - 1):
        pool.write_nodes(one, place, before[place])
        assert torch.equal(pool.read_nodes(one, place), before[place])
    for place in range(GROUP):
        if place not in (0, 7, GROUP - 1):
            assert not torch.equal(pool.read_nodes(one, place), before[place])
        pool.write_nodes(one, place, before[place])
    assert torch.equal(pool.read(one), pool.read(other))
    bad = torch.full((pool.node_bytes // 2,), torch.inf, dtype=torch.bfloat16)
    with pytest.raises(ContextError):
        pool.write_nodes(one, 0, bad.view(torch.uint8))


def test_pages_made_while_answering_can_be_written_at_any_time() -> None:
    pool = PagePool(tiny_config())
    with torch.inference_mode():
        pages = [pool.take() for _ in range(40)]  # it grows
    content = torch.zeros(pool.page_bytes, dtype=torch.uint8)
    for page in pages:
        pool.write(page, content)
        assert torch.equal(pool.read(page), content)
    pool.share(pages[-1])
    assert pool.own(pages[-1]) != pages[-1]
