"""Cold pages in a file: the same bits as in memory, and what happens when the disk fails."""

import ctypes
import mmap
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cold_sequence import Sequential, read_all
from random_decoder import SHAPES, Decoder
from torch import Tensor

from deepseek.core.errors import DiskError
from deepseek.ops import native
from deepseek.ops.cold import ColdTier, page_bytes
from deepseek.ops.hierarchical import PAGE, Hierarchy
from deepseek.ops.native_model import Shape, library
from deepseek.ops.page_file import PageFile, checksum

pytestmark = [
    pytest.mark.skipif(not native.is_available(), reason="the kernels were not built"),
    pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="Linux only"),
]
TIER = ColdTier(bits=4, sinks=64, window=128)
WITHIN = Hierarchy(sinks=64, window=128, recall=192, dense=0, reach=100_000, fusion=0.0)
KINDS = {"dense": None, "within": WITHIN, "dense first": replace(WITHIN, dense=640, reach=512)}
N_PAGES = 16
SHAPE = SHAPES[2]


def page_file(fd: int, shape: Shape = SHAPE, bits: int = 4, held_bytes: int = 1 << 30) -> PageFile:
    """Blocks of so few pages that there are several."""
    return PageFile(
        fd=fd,
        n_blocks=6,
        block_pages=3,
        n_layers=shape.n_layers,
        n_kv_heads=shape.n_kv_heads,
        d_head=shape.d_head,
        bits=8 if bits == 8 else 4,
        held_bytes=held_bytes,
    )


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    with tempfile.TemporaryFile(dir=tmp_path, buffering=0) as file:
        yield file.fileno()


def test_checksum(level: str) -> None:
    """The one that is in the standards, and at any length the one of single bits."""
    digits = torch.frombuffer(bytearray(b"123456789"), dtype=torch.uint8)
    assert checksum(digits) == 0xE3069283
    numbers = torch.randint(256, (41,), generator=torch.Generator().manual_seed(1))
    for n in range(42):
        wanted = 0xFFFFFFFF
        for byte in numbers[:n].tolist():
            wanted ^= byte
            for _ in range(8):
                wanted = wanted >> 1 ^ (0x82F63B78 if wanted & 1 else 0)
        assert checksum(numbers[:n].to(torch.uint8)) == wanted ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("kind", "shape", "bits"),
    [("dense", 2, 4), ("within", 2, 4), ("dense first", 2, 8), ("dense", 1, 8), ("within", 0, 4)],
)
def test_the_same_bits_as_in_memory(level: str, kind: str, shape: int, bits: int, fd: int) -> None:
    """Chunks, tokens, a cut and others after it; then what the file holds, and what it becomes."""
    n, hierarchy = N_PAGES * PAGE, KINDS[kind]
    decoder, tier = Decoder(SHAPES[shape], seed=3), replace(TIER, bits=bits)
    x, others = decoder.embeddings(n), decoder.embeddings(n // 2)
    sizes = [5 * PAGE, 7 * PAGE, 4 * PAGE - 9, 1, 1, 7]
    in_memory = Sequential(decoder, tier, hierarchy, n)
    wanted = read_all(in_memory, x, sizes)
    in_memory.length = n // 2
    wanted_others = in_memory.read(others)
    decoder.native.expand(in_memory.cold[9], 0)
    wanted_page = [t.clone() for t in in_memory.cache.pages.of(0)]
    native.use_threads(2)
    file = page_file(fd, SHAPES[shape], bits)
    on_disk = Sequential(decoder, tier, hierarchy, n, file)
    assert torch.equal(read_all(on_disk, x, sizes), wanted)
    on_disk.length = n // 2
    assert torch.equal(on_disk.read(others), wanted_others)
    used = PAGE * SHAPES[shape].d_head * bits // 8 + 4 * SHAPES[shape].d_head  # of keys
    for page in on_disk.cold:
        keys, values = in_memory.cache.cold.of(page)
        got_keys, got_values = file.read(page).unbind(1)
        assert torch.equal(got_keys[..., :used], keys[..., :used])
        assert torch.equal(got_values, values)
    decoder.native.expand(on_disk.cold[9], 0)
    assert all(
        torch.equal(got, page)
        for got, page in zip(on_disk.cache.pages.of(0), wanted_page, strict=True)
    )
    assert all((t == 255).all() for t in on_disk.cache.cold.keys), "none in memory"


def test_pages_are_copied(fd: int) -> None:
    file = page_file(fd)
    size = SHAPE.n_layers, 2, SHAPE.n_kv_heads, file.part_bytes
    contents = torch.randint(256, (18, *size), generator=torch.Generator().manual_seed(0))
    pages = contents.to(torch.uint8)
    for number in torch.randperm(18).tolist():
        file.write(number, pages[number])
    assert all(torch.equal(file.read(number), pages[number]) for number in range(18))
    assert os.fstat(fd).st_size == 6 * file.block_bytes
    file.write(4, file.read(17))
    assert torch.equal(file.read(4), pages[17])


class Read:
    """Some pages that were read with a file, and what the next tokens give."""

    def __init__(self, fd: int, hierarchy: Hierarchy | None = None) -> None:
        self.decoder, self.file, n = Decoder(SHAPE, seed=4), page_file(fd), 10 * PAGE
        x, self.tail = self.decoder.embeddings(n), self.decoder.embeddings(PAGE)
        native.use_threads(1)
        self.sequence = Sequential(self.decoder, TIER, hierarchy, n + PAGE, self.file)
        self.sequence.read(x)
        self.wanted = self.read_tail()
        self.sequence.length -= PAGE

    def read_tail(self) -> Tensor:
        """One page more."""
        new = self.sequence.new(PAGE)
        got = self.decoder.native.forward([new], embeddings=self.tail.clone())
        self.sequence.length += PAGE
        return got

    def place(self, page: int) -> int:
        """Where the first record of a page is."""
        block, place = divmod(self.sequence.cold[page], self.file.block_pages)
        return block * self.file.block_bytes + place * self.file.record_bytes


@pytest.mark.parametrize("part", ["keys", "sum of keys", "values", "sum of values"])
def test_a_bit_that_flips_is_found(fd: int, part: str) -> None:
    """The pass fails and does not count; what was there before is there after it."""
    read = Read(fd)
    names = ("keys", "sum of keys", "values", "sum of values")
    size = read.file.part_bytes
    place = read.place(4) + (7, size + 1, size + 9, 2 * size + 7)[names.index(part)]
    right = os.pread(fd, 1, place)
    os.pwrite(fd, bytes([right[0] ^ 16]), place)
    for _ in range(2):
        with pytest.raises(DiskError, match="damaged"):
            read.read_tail()
        with pytest.raises(DiskError, match="damaged"):
            read.decoder.native.expand(read.sequence.cold[4], 0)
        with pytest.raises(DiskError, match="damaged"):
            read.file.read(read.sequence.cold[4])
    read.decoder.native.expand(read.sequence.cold[5], 0)
    os.pwrite(fd, right, place)
    assert torch.equal(read.read_tail(), read.wanted)


@pytest.mark.parametrize("hierarchy", [None, replace(WITHIN, recall=640)], ids=["dense", "recall"])
def test_a_file_that_is_cut_is_found(fd: int, hierarchy: Hierarchy | None) -> None:
    read = Read(fd, hierarchy)
    whole = os.pread(fd, os.fstat(fd).st_size, 0)
    for size in (0, read.place(3) + 5):
        os.ftruncate(fd, size)
        with pytest.raises(DiskError, match="damaged"):
            read.read_tail()
        with pytest.raises(DiskError, match="damaged"):
            read.decoder.native.expand(read.sequence.cold[3], 0)
        with pytest.raises(DiskError, match="damaged"):
            read.file.read(read.sequence.cold[3])
    os.pwrite(fd, whole, 0)
    assert torch.equal(read.read_tail(), read.wanted)


def test_what_the_system_refuses_is_told(fd: int) -> None:
    """A disk that is full behind one's back, and files that may not be written or read."""
    read = Read(fd)
    for path, mode, reason in (
        ("/dev/full", os.O_RDWR, "No space left"),
        (f"/proc/self/fd/{fd}", os.O_RDONLY, "Bad file descriptor"),
        (f"/proc/self/fd/{fd}", os.O_WRONLY, "Bad file descriptor"),
    ):
        other = os.open(path, mode)
        bad = page_file(other)
        read.decoder.native.set_cold(bad, TIER)
        with pytest.raises(DiskError, match=reason):
            read.read_tail()
        content = torch.zeros(SHAPE.n_layers, 2, SHAPE.n_kv_heads, bad.part_bytes)
        if mode == os.O_WRONLY:
            with pytest.raises(DiskError, match=reason):
                read.decoder.native.expand(0, 0)
            with pytest.raises(DiskError, match=reason):
                bad.read(0)
        else:
            with pytest.raises(DiskError, match=reason):
                bad.write(0, content.to(torch.uint8))
        os.close(other)
    read.decoder.native.set_cold(read.file, TIER)
    assert torch.equal(read.read_tail(), read.wanted)


def test_the_library_has_a_descriptor_of_its_own(tmp_path: Path) -> None:
    """The number of one that was closed may become that of any file."""
    with tempfile.TemporaryFile(dir=tmp_path, buffering=0) as file:
        read, number = Read(file.fileno()), file.fileno()
    other = tmp_path / "other"
    taken = os.open(other, os.O_RDWR | os.O_CREAT)
    assert taken == number
    assert torch.equal(read.read_tail(), read.wanted)
    assert other.stat().st_size == 0
    os.close(taken)


def n_held(fd: int) -> int:
    """Bytes of a file that are in the system's page cache."""
    size = os.fstat(fd).st_size
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    place = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    assert not libc.mincore(ctypes.c_void_p(place), ctypes.c_size_t(size), pages)
    libc.munmap(ctypes.c_void_p(place), ctypes.c_size_t(size))
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


def test_the_page_cache_is_told_to_let_go(fd: int) -> None:
    """Written and read many times over, no more than the limit stays; without one, all does."""
    if os.statvfs(fd).f_blocks and _is_tmpfs(fd):
        pytest.skip("a file in memory has nothing to let go")
    decoder, n = Decoder(SHAPE, seed=4), N_PAGES * PAGE
    x = decoder.embeddings(n)
    held = {}
    for limit in (1 << 30, 40_000, 0):
        file = page_file(fd, held_bytes=limit)
        sequence = Sequential(decoder, TIER, None, n, file)
        read_all(sequence, x, (n // 2, n // 2))
        held[limit] = n_held(fd)
    assert held[1 << 30] > 13 * file.page_bytes
    # What passes before the limit, in whole pages, and what the system reads ahead by itself.
    assert held[40_000] < held[1 << 30] / 2
    assert held[0] <= held[40_000]


def _is_tmpfs(fd: int) -> bool:
    device = os.fstat(fd).st_dev
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return any(line.split()[2] == wanted and " - tmpfs " in line for line in mounts)


class _Places(ctypes.Structure):
    """`ds_page_file`, for what Python's side would not let through."""

    _fields_ = tuple((f"field_{i}", ctypes.c_int64) for i in range(8))


def test_the_library_checks_where_records_lie(fd: int) -> None:
    found = library()
    model = found.ds_model_new(2, 64, 4, 2, 32, 96, 1e-5)
    record = 2 * (page_bytes(4, 32) + 4)
    right = [fd, 3, 4, 16 * record, 8 * record, record, 4 * record, 1 << 20]

    def set_file(fields: list[int], bits: int = 4, sinks: int = 1, window: int = 2) -> int:
        places = ctypes.byref(_Places(*fields))
        return int(found.ds_model_set_cold_file(model, bits, sinks, window, places))

    assert not set_file(right)
    for place, wrong in (
        *((0, -1), (0, 1 << 40), (0, 1_000_000), (1, 0), (1, 1 << 40), (2, 0), (2, 1 << 62)),
        *((3, record - 1), (4, record - 1), (5, record - 1), (6, record - 1), (6, -record)),
        *((3, 1 << 62), (5, (1 << 63) - 1), (7, -1)),
    ):
        fields = list(right)
        fields[place] = wrong
        assert set_file(fields), f"field {place}: {wrong}"
    assert set_file(right, bits=5)
    assert set_file(right, bits=8), "records of 8 bits are larger"
    assert set_file(right, sinks=-1)
    assert set_file(right, window=-1)
    assert found.ds_model_set_cold_file(model, 4, 1, 2, None)
    assert found.ds_model_set_cold_file(None, 4, 1, 2, ctypes.byref(_Places(*right)))
    assert found.ds_model_expand(model, 0, 0), "it has no pages to write to"
    assert found.ds_model_disk_error(None) == 0
    found.ds_model_free(model)
