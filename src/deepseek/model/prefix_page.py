"""The file of one page of a prompt's beginning, named by what it is computed from.

    header: magic, version, content's bytes, identity, key, CRC-32C of the content and of the header
    content: of each layer keys and values; then, where there are any, their memory nodes

Files are written once and never changed. Nothing in one is trusted: its size is known before it is
read, header and content have a checksum, and numbers are bounded when they go to a pool.
"""

import os
import stat
import struct
from hashlib import blake2b
from io import FileIO
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from deepseek.core.errors import ContextError
from deepseek.ops.page_file import checksum

MAGIC = b"deepseek-prefix\0"
VERSION = 1  # also to be raised when the numbers of the same tokens change
FIELDS = struct.Struct("<16sIQ32s32sI")
HEADER_BYTES = 128
KEY_BYTES = 32


def key_after(before: bytes, tokens: tuple[int, ...]) -> bytes:
    """The key of a page: of its tokens and, through the key of the page before, of all tokens.

    Args:
        before: Key of the page before; of the first page, `first_key`.
        tokens: Of the page.
    """
    data = struct.pack(f"<{len(tokens)}q", *tokens)
    return blake2b(before + data, digest_size=KEY_BYTES).digest()


def first_key(tenant: str = "", adapter: str = "") -> bytes:
    """What keys of the first pages follow: those of different tenants or adapters never meet.

    Args:
        tenant: Whose prompts they are.
        adapter: A fingerprint of what is added to the weights; none: nothing is.
    """
    name = f"deepseek prefix {VERSION} {tenant}".encode()
    key = blake2b(name, digest_size=KEY_BYTES).digest()
    if adapter:
        # Shorter than a page's tokens, so that it is the key of no page.
        key = blake2b(key + b"adapter " + adapter.encode(), digest_size=KEY_BYTES).digest()
    return key


def header_of(identity: bytes, key: bytes, content: UInt8[Tensor, " N"]) -> bytes:
    """What stands before a page's content.

    Args:
        identity: Of all that decides the numbers, 32 bytes.
        key: Of the page, 32 bytes.
        content: Its bytes.
    """
    fields = FIELDS.pack(MAGIC, VERSION, len(content), identity, key, checksum(content))
    sealed = fields + _seal(fields)
    return sealed.ljust(HEADER_BYTES, b"\0")


def read_page(path: Path, identity: bytes, key: bytes, n_bytes: int) -> UInt8[Tensor, " N"]:
    """The content of a file, if it is what was written there.

    Args:
        path: Of the file.
        identity: As it was written.
        key: Likewise.
        n_bytes: Of the content.

    Raises:
        OSError: It is not there, or cannot be read.
        ContextError: It is damaged, or something else.
    """
    # A link is not followed, and opening a pipe does not wait for a writer.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb", buffering=0) as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size != HEADER_BYTES + n_bytes:
            raise ContextError(f"{path} has not the size of a page")
        header = bytearray(HEADER_BYTES)
        content = torch.empty(n_bytes, dtype=torch.uint8)
        for part in (memoryview(header), content.numpy().data):
            if not _fill(file, part):
                raise ContextError(f"{path} became shorter while it was read")
    if bytes(header) != header_of(identity, key, content):
        raise ContextError(f"{path} is damaged, or another page")
    return content


def _fill(file: FileIO, part: memoryview) -> bool:
    """Read on until a buffer is full; False: the file ended before."""
    while part:
        n_read = file.readinto(part)
        if not n_read:
            return False
        part = part[n_read:]
    return True


def _seal(fields: bytes) -> bytes:
    data = torch.frombuffer(bytearray(fields), dtype=torch.uint8)
    return checksum(data).to_bytes(4, "little")
