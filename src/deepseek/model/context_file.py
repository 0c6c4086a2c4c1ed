"""The file of a saved context: the text, its tokens, and their keys and values in pages.

    magic, version, sizes | header (JSON) | checksums | text | token ids | pages of each kind

Everything but the first 32 bytes has a CRC-32, a page at a time: it finds every flipped bit, and is
several times as fast as a cryptographic hash, which would not help against whoever writes the file.
Of a file that is read nothing is trusted: sizes are checked against the file's own before memory is
taken, and numbers are bounded, so that the worst it can do is to give wrong answers.
"""

import json
import os
import stat
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import torch
from jaxtyping import BFloat16, UInt8
from torch import Tensor

from deepseek.core.config import build
from deepseek.core.errors import ConfigError, ContextError
from deepseek.weights.cache import replaced, require_free

MAGIC = b"deepseek-context"
VERSION = 3  # 1 had no cold pages, 2 no adapters; both are the same without them
BEGINNING = struct.Struct("<16sIIII")  # magic, version, header's bytes, CRCs of header, checksums
MAX_HEADER_BYTES = 1 << 16
ALIGNMENT = 4_096  # of pages in the file: they can be mapped and used where they are
LARGEST = 2.0**40  # no model's keys are near; beyond, scores might overflow
LARGEST_BITS, SIGN_BIT = 0x5380, 0x8000  # of `LARGEST` in bfloat16
OVERFLOWING = "the context holds numbers that no model computes"
HINT = "save the context anew: deepseek context save"

Progress = Callable[[int, int], None]
"""Called with pages done and pages in all."""


@runtime_checkable
class PageTable(Protocol):
    """Pages of one kind that belong to one sequence, in order."""

    @property
    def name(self) -> str:
        """What they hold."""
        ...

    @property
    def layout(self) -> str:
        """In which number format and order."""
        ...

    @property
    def covered(self) -> int:
        """Positions of a page."""
        ...

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        ...

    def places(self, n_positions: int) -> Sequence[int]:
        """Where pages stand that are saved of the first positions, in order."""
        ...

    def read(self, place: int, n_positions: int) -> UInt8[Tensor, " N"]:
        """What the page at a place holds for the first `n_positions` of the sequence."""
        ...

    def put(self, place: int, content: UInt8[Tensor, " N"]) -> None:
        """Add a page that `read` gave, behind all others.

        Raises:
            ContextError: It holds what no model computes.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """Pages of one kind in a file."""

    name: str
    layout: str
    covered: int
    page_bytes: int
    n_pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextInfo:
    """The header of a file."""

    model: str
    """The checkpoint's name, for people."""
    fingerprint: str
    """Of its config and weights."""
    context_window: int
    """The one that the context was read in."""
    attention: dict[str, Any] | None
    """Settings of hierarchical attention; None: dense."""
    n_tokens: int
    text_bytes: int
    pages: tuple[Pages, ...]
    cold: dict[str, Any] | None = None
    """Settings of keys and values in 8 or 4 bits; None: none are."""
    adapter: dict[str, Any] | None = None
    """Name and fingerprint of the adapter that it was read with; None: there was none."""

    @property
    def n_pages(self) -> int:
        """Pages of all kinds."""
        return sum(kind.n_pages for kind in self.pages)


def pages_of(tables: Sequence[PageTable], n_tokens: int) -> tuple[Pages, ...]:
    """What a file holds of the pages of a sequence of that many tokens."""
    return tuple(
        Pages(
            name=table.name,
            layout=table.layout,
            covered=table.covered,
            page_bytes=table.page_bytes,
            n_pages=len(table.places(n_tokens)),
        )
        for table in tables
    )


def check_numbers(numbers: Tensor) -> None:
    """Refuse what would overflow.

    Raises:
        ContextError: Numbers are infinite, no numbers, or far larger than a model's.
    """
    if numbers.dtype is torch.bfloat16 and numbers.is_contiguous():
        if not _are_small(numbers):
            raise ContextError(OVERFLOWING, HINT)
        return
    # A maximum of what is no number is no number, and no number is below a limit.
    if numbers.numel() and not float(numbers.abs().amax()) <= LARGEST:
        raise ContextError(OVERFLOWING, HINT)


def _are_small(numbers: BFloat16[Tensor, "..."]) -> bool:
    """The same by their bits, which is many times as fast.

    As integers numbers of one sign lie in the order of their size, and behind all of them what is
    infinite or no number. With a sign negative ones are below all others, without above.
    """
    bits = numbers.detach().view(torch.int16).numpy()
    if not bits.size:
        return True
    positive, negative = int(bits.max()), int(bits.view("uint16").max())
    return positive <= LARGEST_BITS and negative <= LARGEST_BITS | SIGN_BIT


def write_context(
    path: Path,
    info: ContextInfo,
    text: bytes,
    token_ids: Sequence[int],
    tables: Sequence[PageTable],
    on_page: Progress | None = None,
) -> int:
    """Write a file whole or not at all, and return its bytes.

    Raises:
        ContextError: The place cannot be written, or is full.
    """
    header = json.dumps(asdict(info), separators=(",", ":")).encode()
    assert len(header) <= MAX_HEADER_BYTES
    layout = _Layout(info, len(header))
    crcs = array("I")
    try:
        require_free(path.parent, layout.n_bytes)
        with replaced(path) as file:
            file.seek(layout.text)
            for part in (text, array("i", token_ids).tobytes()):
                crcs.append(zlib.crc32(part))
                file.write(part)
            for table, start in zip(tables, layout.pages, strict=True):
                file.seek(start)
                for place in table.places(info.n_tokens):
                    content = table.read(place, info.n_tokens).numpy().data
                    crcs.append(zlib.crc32(content))
                    file.write(content)
                    if on_page:
                        on_page(len(crcs) - 2, info.n_pages)
            sums = crcs.tobytes()
            file.seek(0)
            file.write(
                BEGINNING.pack(MAGIC, VERSION, len(header), zlib.crc32(header), zlib.crc32(sums))
            )
            file.write(header)
            file.write(sums)
            path_bytes = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise ContextError(
            f"cannot write {path}: {error.strerror}", "free some space, or choose another place"
        ) from None
    assert path_bytes == layout.n_bytes
    return path_bytes


class _Layout:
    """Where everything is in a file."""

    def __init__(self, info: ContextInfo, header_bytes: int) -> None:
        self.sums = BEGINNING.size + header_bytes
        self.n_sums = 2 + info.n_pages
        self.text = self.sums + 4 * self.n_sums
        self.tokens = self.text + info.text_bytes
        end = self.tokens + 4 * info.n_tokens
        self.pages: list[int] = []
        for kind in info.pages:
            start = -(-end // ALIGNMENT) * ALIGNMENT
            self.pages.append(start)
            end = start + kind.n_pages * kind.page_bytes
        self.n_bytes = end


class ContextFile:
    """An open file whose header was checked. Use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            ContextError: It is missing, damaged, hostile, or of a newer version.
        """
        self.path = path
        self._file = _open(path)
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self.info, self._layout, sums_crc = self._header()
            data = self._read(self._layout.sums, 4 * self._layout.n_sums)
            if zlib.crc32(data) != sums_crc:
                raise self._damaged("its checksums are wrong")
            self._sums = array("I", data)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "ContextFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return self._size

    def text(self) -> bytes:
        """What the context was made of.

        Raises:
            ContextError: It is damaged.
        """
        return bytes(self._part(self._layout.text, self.info.text_bytes, 0, "text"))

    def token_ids(self) -> list[int]:
        """Its tokens.

        Raises:
            ContextError: They are damaged.
        """
        data = self._part(self._layout.tokens, 4 * self.info.n_tokens, 1, "tokens")
        return array("i", bytes(data)).tolist()

    def pages(self, kind: int, on_page: Progress | None = None) -> Iterator[UInt8[Tensor, " N"]]:
        """The pages of one kind in order, each valid until the next.

        Raises:
            ContextError: One is damaged.
        """
        first = 2 + sum(other.n_pages for other in self.info.pages[:kind])
        pages, start = self.info.pages[kind], self._layout.pages[kind]
        for place in range(pages.n_pages):
            at = start + place * pages.page_bytes
            what = f"page {place} of {pages.name}"
            data = self._part(at, pages.page_bytes, first + place, what)
            yield torch.frombuffer(data, dtype=torch.uint8)
            if on_page:
                on_page(first + place - 1, self.info.n_pages)

    def _header(self) -> tuple[ContextInfo, _Layout, int]:
        if self._size < BEGINNING.size:
            raise self._damaged("it is shorter than a header")
        magic, version, n_bytes, crc, sums_crc = BEGINNING.unpack(self._read(0, BEGINNING.size))
        if magic != MAGIC:
            raise self._damaged("it does not begin like one")
        if version > VERSION:
            raise ContextError(
                f"{self.path} is of version {version}, this program reads up to {VERSION}",
                "update the package, or save the context anew",
            )
        if version < 1 or n_bytes > min(MAX_HEADER_BYTES, self._size - BEGINNING.size):
            raise self._damaged(f"it claims version {version} and a header of {n_bytes} bytes")
        data = self._read(BEGINNING.size, n_bytes)
        if zlib.crc32(data) != crc:
            raise self._damaged("its header has another checksum")
        info = self._parsed(data)
        layout = _Layout(info, n_bytes)
        if layout.n_bytes != self._size:
            raise self._damaged(f"it has {self._size:,} bytes where {layout.n_bytes:,} are needed")
        return info, layout, sums_crc

    def _parsed(self, data: bytes | bytearray) -> ContextInfo:
        try:
            table = json.loads(data)
            pages = tuple(build(Pages, row, "pages.") for row in table.pop("pages"))
            info = build(ContextInfo, {**table, "pages": pages})
        except ConfigError as error:
            raise self._damaged(error.message) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self._damaged(f"its header is {error}") from None
        sizes = (info.n_tokens, *(n for p in pages for n in (p.covered, p.page_bytes, p.n_pages)))
        fits = all(0 < size <= self._size for size in sizes) and 0 <= info.text_bytes <= self._size
        if not fits or not pages or any(p.n_pages > -(-info.n_tokens // p.covered) for p in pages):
            raise self._damaged("the sizes in its header do not fit together")
        return info

    def _part(self, start: int, n_bytes: int, number: int, what: str) -> bytearray:
        data = self._read(start, n_bytes)
        if zlib.crc32(data) != self._sums[number]:
            raise self._damaged(f"its {what} has another checksum")
        return data

    def _read(self, start: int, n_bytes: int) -> bytearray:
        """Some bytes; the caller has checked them against the file's size."""
        data = bytearray(n_bytes)
        try:
            self._file.seek(start)
            n_read = self._file.readinto(data)  # type: ignore[attr-defined]
        except OSError as error:
            raise ContextError(f"cannot read {self.path}: {error.strerror}", HINT) from None
        if n_read != n_bytes:
            raise self._damaged("it became shorter while it was read")
        return data

    def _damaged(self, why: str) -> ContextError:
        return ContextError(f"{self.path} is no valid saved context: {why}", HINT)


def _open(path: Path) -> BinaryIO:
    try:
        # O_NONBLOCK: opening a pipe must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise ContextError(f"cannot open {path}: {reason}", "check the path") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ContextError(f"{path} is no regular file", "name a saved context")
    return os.fdopen(handle, "rb")
