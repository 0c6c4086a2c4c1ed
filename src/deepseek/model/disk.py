"""Cold pages in a file: what a context of millions of tokens keeps outside of memory.

The file has no name in its folder, so that nothing of it is left however the process ends. Its room
is reserved before it is used: a full disk is an error where pages are taken, never in a pass.
"""

import os
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from deepseek.core.errors import ConfigError, RequestError
from deepseek.core.log import LOGGER
from deepseek.model.config import ModelConfig
from deepseek.model.pages import BLOCK, PagePool
from deepseek.ops.cold import ColdBits
from deepseek.ops.hierarchical import PAGE
from deepseek.ops.page_file import HELD_BYTES, PageFile


class DiskPool(PagePool):
    """Cold pages of one model, in a file that grows."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        bits: ColdBits,
        folder: Path,
        most: int | None = None,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        """Make the file and reserve a first block.

        Args:
            config: Of the model.
            bits: Of the pages.
            folder: Where the file is.
            most: Pages that there may be; None: it grows.
            held_bytes: What passes through the system's page cache until it is told to let go.

        Raises:
            ConfigError: There can be no such file.
        """
        if not hasattr(os, "posix_fallocate") or not hasattr(os, "posix_fadvise"):
            raise ConfigError(
                "keys and values are kept on a disk on Linux only", "leave out kv_disk (--kv-disk)"
            )
        self._folder = folder
        try:
            file = tempfile.TemporaryFile(dir=folder, prefix="deepseek-", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise ConfigError(
                f"no file for keys and values can be made in {folder}: {error.strerror}",
                "name a folder that exists and is writable with kv_disk (--kv-disk)",
            ) from error
        weakref.finalize(self, file.close)
        self.file = PageFile(
            fd=file.fileno(),
            n_blocks=0,
            block_pages=BLOCK,
            n_layers=config.n_layers,
            n_kv_heads=config.n_kv_heads,
            d_head=config.d_head,
            bits=bits,
            held_bytes=held_bytes,
        )
        """What lies where, until it grows."""
        if _is_in_memory(folder):
            LOGGER.warning("%s is in memory: keys and values there save none", folder)
        try:
            super().__init__(config, bits=bits, most=most)
        except RequestError as error:
            raise ConfigError(error.message, error.hint) from error

    @property
    def n_bytes(self) -> int:
        """Bytes of the file."""
        return self.file.n_blocks * self.file.block_bytes

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return self.file.page_bytes

    def read(self, page: int, n_vectors: int = PAGE) -> UInt8[Tensor, " N"]:
        """What a page holds: of each layer the keys, then the values.

        Raises:
            DiskError: It cannot be read.
        """
        assert n_vectors == PAGE, "cold pages are complete"
        return self.file.read(page).flatten()

    def write(self, page: int, content: UInt8[Tensor, " N"]) -> None:
        """Put there what `read` gave.

        Raises:
            DiskError: It cannot be written.
        """
        file = self.file
        self.file.write(page, content.view(file.n_layers, 2, file.n_kv_heads, file.part_bytes))

    def _reserve(self) -> None:
        size, more = self.n_bytes, self.file.block_bytes
        try:
            os.posix_fallocate(self.file.fd, size, more)
        except OSError as error:
            os.ftruncate(self.file.fd, size)  # what was reserved before the disk was full
            disk = os.fstatvfs(self.file.fd)
            free = disk.f_bavail * disk.f_frsize
            raise RequestError(
                f"keys and values need {more / 2**20:,.1f} MiB more in {self._folder}: "
                f"{error.strerror}; {free / 2**20:,.1f} MiB are free there, "
                f"{size / 2**20:,.1f} MiB are taken",
                "make room there, or name another folder with kv_disk (--kv-disk)",
            ) from error
        self.file = replace(self.file, n_blocks=self.file.n_blocks + 1)

    def _copy(self, page: int, to: int) -> None:
        self.write(to, self.read(page))


def _is_in_memory(folder: Path) -> bool:
    """Whether a folder is on a file system that is kept in memory, as far as that can be told."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    there, kind = "", ""
    place = str(folder.resolve())
    for line in mounts.splitlines():
        fields = line.split(" ")
        point = fields[1].encode().decode("unicode_escape")
        if len(point) >= len(there) and Path(place).is_relative_to(point):
            there, kind = point, fields[2]
    return kind in ("tmpfs", "ramfs")
