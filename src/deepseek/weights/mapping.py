"""Read-only memory maps of regular files."""

import mmap
import os
import stat
import warnings
from pathlib import Path

import torch
from torch import Tensor

from deepseek.core.errors import CheckpointError


class MappedFile:
    """A regular file's bytes as a uint8 tensor that costs no memory until it is read."""

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            CheckpointError: It is missing, unreadable, empty or no regular file.
        """
        self.path = path
        try:
            # O_NONBLOCK: opening a pipe must not wait for a writer.
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte
            raise CheckpointError(
                f"cannot open {path}: {error}", "check the path and its permissions"
            ) from None
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path} is no regular file", "name a file with weights")
            if status.st_size == 0:
                raise CheckpointError(f"{path} is empty", "fetch it again")
            self.size = status.st_size
            self.buffer = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(handle)
        with warnings.catch_warnings():
            # torch warns that the buffer is read-only; nothing here writes to it.
            warnings.simplefilter("ignore", UserWarning)
            self.bytes: Tensor = torch.frombuffer(self.buffer, dtype=torch.uint8)

    def read(self, start: int, n_bytes: int) -> bytes:
        """A copy of some bytes; the caller has checked the bounds."""
        return self.buffer[start : start + n_bytes]

    def release(self) -> None:
        """Give the pages back that were read so far; they are read again when needed."""
        if hasattr(self.buffer, "madvise"):
            self.buffer.madvise(mmap.MADV_DONTNEED)
