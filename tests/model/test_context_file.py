"""Saved contexts: what is written comes back, and nothing in a file is trusted."""

import errno
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek.core.errors import ContextError
from deepseek.model.cache import DenseCache
from deepseek.model.context_file import (
    BEGINNING,
    MAGIC,
    VERSION,
    ContextFile,
    ContextInfo,
    pages_of,
    write_context,
)
from deepseek.model.pages import COVERED, GONE, ColdPages, PagedSequence, PagePool
from deepseek.ops.cold import ColdBits, ColdTier
from deepseek.ops.hierarchical import GROUP, NODES, PAGE
from deepseek.weights import cache as weights_cache
from tiny_checkpoint import tiny_config

TEXT = b'"a text"'


def filled(n_tokens: int, seed: int = 0) -> PagedSequence:
    """A sequence with memory nodes and random numbers, behind pages that others use."""
    generator = torch.Generator().manual_seed(seed)
    pool, memory = PagePool(tiny_config()), PagePool(tiny_config(), has_values=False)
    other, sequence = (PagedSequence(pool, memory) for _ in range(2))
    other.extend(3 * COVERED)
    sequence.extend(n_tokens)
    sequence.advance(n_tokens)
    other.release()
    for tensor in (*pool.pages.keys, *pool.pages.values, *memory.pages.keys):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return sequence


def save(path: Path, sequence: PagedSequence, ids: list[int], **fields: Any) -> ContextInfo:
    info = ContextInfo(
        **{
            "model": "tiny",
            "fingerprint": "f",
            "context_window": 4_096,
            "attention": {"sinks": 64},
            "n_tokens": len(ids),
            "text_bytes": len(TEXT),
            "pages": pages_of(sequence.tables, len(ids)),
            **fields,
        }
    )
    write_context(path, info, TEXT, ids, sequence.tables)
    return info


def contents(path: Path) -> tuple[Any, ...]:
    """All of a file."""
    with ContextFile(path) as file:
        pages = [
            [page.clone() for page in file.pages(kind)] for kind in range(len(file.info.pages))
        ]
        return file.info, file.text(), file.token_ids(), pages


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small file."""
    path = tmp_path / "x.context"
    save(path, filled(2 * PAGE), list(range(2 * PAGE)))
    return path


@pytest.mark.parametrize("n_pages", [1, 15, 16, 17, 33])
def test_it_comes_back(n_pages: int, tmp_path: Path) -> None:
    n_tokens = n_pages * PAGE
    sequence = filled(n_tokens, seed=n_pages)
    ids = [random.Random(n_pages).randrange(1 << 20) for _ in range(n_tokens)]
    info = save(tmp_path / "x.context", sequence, ids)
    read, text, token_ids, pages = contents(tmp_path / "x.context")
    assert (read, text, token_ids) == (info, TEXT, ids)
    keys, nodes = sequence.tables
    again = PagedSequence(PagePool(tiny_config()), PagePool(tiny_config(), has_values=False))
    for table, kind in zip(again.tables, pages, strict=True):
        for place, page in enumerate(kind):
            table.put(place, page)
    again.advance(n_tokens)
    for place in range(n_pages):
        theirs, ours = keys.pages[place], again.tables[0].pages[place]
        before, after = keys.pool.pages.of(theirs), again.tables[0].pool.pages.of(ours)
        assert len(before) == 2
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    n_full, rest = divmod(n_pages, COVERED // PAGE)
    for place in range(n_full + bool(rest)):
        theirs, ours = nodes.pages[place], again.tables[1].pages[place]
        n_written = GROUP if place < n_full else rest
        (before,), (after,) = nodes.pool.pages.of(theirs), again.tables[1].pool.pages.of(ours)
        before, after = (t.unflatten(2, (-1, NODES, GROUP, 2)) for t in (before, after))
        assert torch.equal(before[..., :n_written, :], after[..., :n_written, :])
        assert not after[..., n_written:, :].any()  # what an earlier text left is not saved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dense_cache_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    config = tiny_config()
    one, other = (DenseCache(config, dtype=dtype, device=torch.device("cpu")) for _ in range(2))
    shape = 1, config.n_kv_heads, 3 * PAGE + 5, config.d_head
    for layer in range(config.n_layers):
        one.append(layer, torch.randn(shape).to(dtype), torch.randn(shape).to(dtype))
    one.advance(shape[2])
    n_tokens = 3 * PAGE
    path = tmp_path / "x.context"
    info = ContextInfo(
        model="tiny",
        fingerprint="f",
        context_window=4_096,
        attention=None,
        n_tokens=n_tokens,
        text_bytes=len(TEXT),
        pages=pages_of(one.tables, n_tokens),
    )
    write_context(path, info, TEXT, list(range(n_tokens)), one.tables)
    with ContextFile(path) as file:
        for place, page in enumerate(file.pages(0)):
            other.tables[0].put(place, page)
    assert other.length == n_tokens
    for layer in range(config.n_layers):
        for a, b in zip(one.read(layer), other.read(layer), strict=True):
            assert torch.equal(a[:, :, :n_tokens], b)


def test_every_flipped_bit_is_found(saved: Path) -> None:
    data = saved.read_bytes()
    with ContextFile(saved) as file:
        pages = file._layout.pages[0]
        text = file._layout.tokens + 4 * file.info.n_tokens
    generator = random.Random(1)
    beginning = range(text)  # each of its bytes, then some of the pages
    for place in [*beginning, *(generator.randrange(pages, len(data)) for _ in range(200))]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << generator.randrange(8)
        saved.write_bytes(damaged)
        with pytest.raises(ContextError) as caught:
            contents(saved)
        assert caught.value.hint


def test_every_truncation_is_found(saved: Path) -> None:
    data = saved.read_bytes()
    for size in [*range(0, 600, 7), len(data) // 2, len(data) - 1]:
        saved.write_bytes(data[:size])
        with pytest.raises(ContextError, match="no valid saved context"):
            contents(saved)
    saved.write_bytes(data + b"\0")
    with pytest.raises(ContextError, match="bytes where"):
        contents(saved)


def test_a_newer_version_is_named(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[16:20] = struct.pack("<I", VERSION + 1)
    saved.write_bytes(data)
    with pytest.raises(ContextError, match=f"of version {VERSION + 1}") as caught:
        contents(saved)
    assert "update the package" in caught.value.hint


PAGES = {"name": "k", "layout": "l", "covered": 64, "page_bytes": 64, "n_pages": 1}
HEADER = {
    "model": "m",
    "fingerprint": "f",
    "context_window": 100,
    "attention": None,
    "n_tokens": 64,
    "text_bytes": 8,
    "pages": [PAGES],
}


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"pages": 3}',
        b"[" * 60_000,
        *(
            json.dumps(HEADER | change).encode()
            for change in (
                {"n_tokens": 1 << 62},
                {"n_tokens": -64},
                {"n_tokens": True},
                {"text_bytes": 1 << 40},
                {"text_bytes": -8},
                {"pages": [PAGES | {"n_pages": 1 << 61}]},
                {"pages": [PAGES | {"page_bytes": 1 << 60}]},
                {"pages": [PAGES | {"page_bytes": -64}]},
                {"pages": [PAGES | {"covered": 0}]},
                {"pages": [PAGES | {"more": 1}]},
                {"pages": [PAGES] * 500},
                {"attention": 3},
                {"cold": 4},
                {"pages": []},
                {"pages": [PAGES | {"n_pages": 0}]},
                {"more": 3},
            )
        ),
    ],
)
def test_hostile_headers(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.context"
    sums = bytes(64)
    beginning = BEGINNING.pack(MAGIC, VERSION, len(header), zlib.crc32(header), zlib.crc32(sums))
    path.write_bytes(beginning + header + sums + bytes(20_000))
    with pytest.raises(ContextError, match="no valid saved context"):
        contents(path)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_numbers_that_no_model_computes_are_refused(number: float, tmp_path: Path) -> None:
    sequence = filled(2 * PAGE)
    table = sequence.tables[0]
    table.pool.pages.of(table.pages[1])[1][-1, 0, 7] = number
    path = tmp_path / "x.context"
    save(path, sequence, list(range(2 * PAGE)))
    pages = contents(path)[3][0]
    table.put(2, pages[0])
    with pytest.raises(ContextError, match="no model computes"):
        table.put(3, pages[1])


@pytest.mark.parametrize("bits", [8, 4])
def test_ranges_that_no_model_computes_are_refused(bits: ColdBits) -> None:
    """Whatever codes a cold page holds, what it stands for is bounded."""
    config = tiny_config()
    pool = PagePool(config, bits=bits)
    page = pool.take()
    for part in pool.pages.of(page):
        part.copy_(torch.randint(0, 256, part.shape, dtype=torch.uint8))
        part[..., PAGE * config.d_head * bits // 8 :] = 0  # least numbers and steps
    content = pool.read(page)
    pool.write(page, content)
    sizes = config.n_layers, 2, config.n_kv_heads, -1
    n_codes = PAGE * config.d_head * bits // 8
    for number in (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e12):
        for kind in (0, 1):
            # The last range of one head: least of two channels, then their steps.
            for place in range(4):
                end = n_codes + config.d_head * 4 if kind == 0 else None
                hostile = content.clone()
                ranges = hostile.view(sizes)[-1, kind, -1, n_codes:end]
                ranges.view(torch.bfloat16)[-4 + place] = number
                if number == 1e12 and place < 2:
                    pool.write(page, hostile)  # large, but what it stands for is below 2^40
                    continue
                with pytest.raises(ContextError, match="no model computes"):
                    pool.write(page, hostile)


@pytest.mark.parametrize("bits", [8, 4])
def test_cold_pages_come_back(bits: ColdBits, tmp_path: Path) -> None:
    """Those of heads narrower than a slice have a part that nobody writes: it is not saved."""
    generator = torch.Generator().manual_seed(bits)
    tier = ColdTier(bits=bits, sinks=PAGE, window=2 * PAGE, slack=PAGE)
    config, n_pages = tiny_config(), 9

    def pools() -> PagedSequence:
        cold = PagePool(config, bits=bits)
        for part in (*cold.pages.keys, *cold.pages.values):
            codes = torch.randint(0, 256, part.shape, dtype=torch.uint8, generator=generator)
            numbers = torch.randn((*part.shape[:-1], part.shape[-1] // 2), generator=generator)
            part.copy_(numbers.bfloat16().view(torch.uint8))
            part[..., : PAGE * config.d_head * bits // 8] = codes[
                ..., : PAGE * config.d_head * bits // 8
            ]
        return PagedSequence(
            PagePool(config), None, ColdPages(pool=cold, tier=tier, expand=lambda *_: None)
        )

    one, other = pools(), pools()
    for part in (*one.tables[0].pool.pages.keys, *one.tables[0].pool.pages.values):
        part.copy_(torch.randn(part.shape, generator=generator))
    one.extend(n_pages * PAGE)
    one.advance(n_pages * PAGE)
    info = save(tmp_path / "x", one, list(range(n_pages * PAGE)), cold=asdict(tier))
    assert info.cold == asdict(tier)
    assert [kind.n_pages for kind in info.pages] == [1 + 2 + 1, n_pages]
    for table, kind in zip(other.tables, contents(tmp_path / "x")[3], strict=True):
        for place, page in zip(table.places(n_pages * PAGE), kind, strict=True):
            table.put(place, page)
    other.advance(n_pages * PAGE)
    assert [page == GONE for page in other.tables[0].pages] == [
        *([False] + [True] * 5 + [False] * 3)
    ]
    assert other.is_as_read(n_pages * PAGE)
    again = save(tmp_path / "y", other, list(range(n_pages * PAGE)), cold=asdict(tier))
    assert again == info
    assert (tmp_path / "y").read_bytes() == (tmp_path / "x").read_bytes()


def test_a_file_of_the_first_version_is_read(saved: Path) -> None:
    data = saved.read_bytes()
    _, _, size, _, sums = BEGINNING.unpack(data[: BEGINNING.size])
    header = data[BEGINNING.size : BEGINNING.size + size]
    field = b',"cold":null'
    assert header.count(field) == 1
    older = header.replace(field, b" " * len(field))
    beginning = BEGINNING.pack(MAGIC, 1, size, zlib.crc32(older), sums)
    wanted = contents(saved)
    saved.write_bytes(beginning + older + data[BEGINNING.size + size :])
    got = contents(saved)
    assert got[:3] == wanted[:3]
    for ours, theirs in zip(got[3], wanted[3], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing", "nul\0l", "."):
        with pytest.raises(ContextError):
            ContextFile(tmp_path / name)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.context"
    path.write_bytes(b"the one before")
    sequence = filled(2 * PAGE)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ContextError, match="No space left") as caught:
        save(path, sequence, list(range(2 * PAGE)))
    assert "free some space" in caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"the one before"


def test_a_limit_of_the_system_leaves_nothing(tmp_path: Path) -> None:
    """The system itself refuses to write on, in the middle of the pages."""
    code = f"""
import resource, signal, sys
sys.path[:0] = {sys.path!r}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from test_context_file import PAGE, ContextError, Path, filled, save
sequence = filled(8 * PAGE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    save(Path({str(tmp_path / "x.context")!r}), sequence, list(range(8 * PAGE)))
except ContextError as error:
    print(error.message)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert "File too large" in run.stdout
    assert not list(tmp_path.iterdir())


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    code = f"""
import sys, time
sys.path[:0] = {sys.path!r}
from pathlib import Path
from deepseek.weights.cache import replaced
with replaced(Path({str(tmp_path / "y.context")!r})) as file:
    file.write(b"begun")
    file.flush()
    print("begun", flush=True)
    time.sleep(600)
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "begun\n"
    (left,) = tmp_path.iterdir()
    long_ago = time.time() - 10 * weights_cache.FRESH_SECONDS
    os.utime(left, (long_ago, long_ago))
    save(tmp_path / "x.context", filled(PAGE), list(range(PAGE)))
    assert left.exists()  # its writer lives
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    save(tmp_path / "x.context", filled(PAGE), list(range(PAGE)))
    assert [p.name for p in tmp_path.iterdir()] == ["x.context"]
