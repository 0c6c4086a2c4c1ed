"""Cold pages in a file, as the native library reads and writes them (`page_file.h`).

A record is a head's page in one layer: codes of keys, 4 bytes of their checksum, and the same of
values. Records of one layer and head lie behind each other, block by block of pages.
"""

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from deepseek.core.errors import DiskError
from deepseek.ops import native
from deepseek.ops.cold import ColdBits, page_bytes

SUM_BYTES = 4
HELD_BYTES = 256 << 20
"""What passes through the system's page cache until it is told to let go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    """An open file and what lies where in it."""

    fd: int
    n_blocks: int
    block_pages: int
    n_layers: int
    n_kv_heads: int
    d_head: int
    bits: ColdBits
    held_bytes: int = HELD_BYTES

    @property
    def part_bytes(self) -> int:
        """Bytes of a head's keys, or of its values, without their checksum."""
        return page_bytes(self.bits, self.d_head)

    @property
    def record_bytes(self) -> int:
        """Bytes of a head's page in one layer."""
        return 2 * (self.part_bytes + SUM_BYTES)

    @property
    def page_bytes(self) -> int:
        """Bytes of a page of all layers and heads."""
        return self.n_layers * self.n_kv_heads * self.record_bytes

    @property
    def block_bytes(self) -> int:
        """Bytes that the file grows by."""
        return self.block_pages * self.page_bytes

    def describe(self) -> "ctypes._CArgObject":
        """As the library takes it."""
        head = self.block_pages * self.record_bytes
        strides = self.block_bytes, self.n_kv_heads * head, self.record_bytes, head
        sizes = self.fd, self.n_blocks, self.block_pages
        return ctypes.byref(_PageFile(*sizes, *strides, self.held_bytes))

    def read(self, page: int) -> UInt8[Tensor, "L 2 G N"]:
        """Keys and values of a page, without checksums.

        Raises:
            DiskError: They cannot be read, or are not what was written.
        """
        records = b"".join(self._read(place) for place in self._places(page))
        stored = torch.frombuffer(bytearray(records), dtype=torch.uint8)
        stored = stored.view(self.n_layers, self.n_kv_heads, 2, -1)
        parts = stored[..., : self.part_bytes].contiguous()
        if not torch.equal(_sums(parts), stored[..., self.part_bytes :]):
            raise DiskError.damaged()
        return parts.transpose(1, 2).contiguous()

    def write(self, page: int, content: UInt8[Tensor, "L 2 G N"]) -> None:
        """Put there what `read` gave.

        Raises:
            DiskError: It cannot be written.
        """
        parts = content.transpose(1, 2).contiguous()
        records = torch.cat((parts, _sums(parts)), -1).flatten(2).flatten(0, 1)
        for place, record in zip(self._places(page), records.numpy(), strict=True):
            try:
                written = os.pwrite(self.fd, record, place)
            except OSError as error:
                raise DiskError.failed(error.errno) from error
            if written < self.record_bytes:
                raise DiskError.failed(None)

    def _places(self, page: int) -> Iterator[int]:
        """Where the records of a page are, layer by layer."""
        block, place = divmod(page, self.block_pages)
        start = block * self.block_bytes + place * self.record_bytes
        for row in range(self.n_layers * self.n_kv_heads):
            yield start + row * self.block_pages * self.record_bytes

    def _read(self, place: int) -> bytes:
        try:
            record = os.pread(self.fd, self.record_bytes, place)
        except OSError as error:
            raise DiskError.failed(error.errno) from error
        if len(record) < self.record_bytes:
            raise DiskError.damaged()
        return record


def checksum(content: UInt8[Tensor, " N"]) -> int:
    """CRC-32C."""
    library = native.library()
    assert library is not None, "the caller has asked `native.is_available`"
    return int(library.ds_checksum(content.data_ptr(), content.numel()))


def _sums(parts: UInt8[Tensor, "L G 2 N"]) -> UInt8[Tensor, "L G 2 4"]:
    sums = torch.tensor([checksum(part) for part in parts.flatten(0, 2)])
    # As the library has them: four bytes in the processor's order.
    return sums.to(torch.uint32).view(torch.uint8).view(*parts.shape[:3], SUM_BYTES)


class _PageFile(ctypes.Structure):
    """`ds_page_file`."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("fd", "n_blocks", "block_pages"),
            *("block_stride", "layer_stride", "page_stride", "head_stride", "held_bytes"),
        )
    )
