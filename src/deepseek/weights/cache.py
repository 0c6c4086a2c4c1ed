"""Where weights live, and which of them were verified."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from deepseek.core.errors import DownloadError

PIECE = 1 << 20
LARGE = ".new-large-"
"""How the names of large files begin while they are written."""
FRESH_SECONDS = 2.0
"""Age up to which such a file may not be locked yet."""


def home() -> Path:
    """The user's cache: `$DEEPSEEK_HOME`, or `deepseek` under the user's cache folder."""
    named = os.environ.get("DEEPSEEK_HOME")
    if named:
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "deepseek"


def model_folder(name: str) -> Path:
    """Where the finished files of a named checkpoint are."""
    return home() / "models" / name


def texts_folder(name: str, digest: str) -> Path:
    """Where the texts of an archive with this digest are."""
    return home() / "texts" / f"{name}-{digest[:12]}"


def partial_folder(name: str) -> Path:
    """Where an unfinished pull keeps what it has."""
    return home() / "partial" / name


def is_verified(file: Path, size: int, digest: str) -> bool:
    """Whether a file is there, was hashed once and did not change since."""
    try:
        status = file.stat()
        stamp = json.loads(_stamp(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return status.st_size == size and stamp == [size, status.st_mtime_ns, digest]


def mark_verified(file: Path, digest: str) -> None:
    """Remember that this file, as it is now, has this hash."""
    status = file.stat()
    text = json.dumps([status.st_size, status.st_mtime_ns, digest])
    write_atomically(_stamp(file), text.encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A large file that appears under its name when the block ends without an error.

    What writers that were killed left in the folder is removed: a writer holds a lock on its file,
    which goes with the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{LARGE}*"):
        remove_if_left(left)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=LARGE)
    try:
        with os.fdopen(handle, "w+b") as file:
            try_lock(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def remove_if_left(file: Path) -> None:
    """Remove a large file unless its writer lives; a moment ago it may not have had its lock."""
    with contextlib.suppress(OSError):
        handle = os.open(file, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            is_old = time.time() - os.fstat(handle).st_mtime > FRESH_SECONDS
            if is_old and try_lock(handle):
                file.unlink()
        finally:
            os.close(handle)


def try_lock(handle: int) -> bool:
    """Lock an open file if no other process does; False where the system has no locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def file_hash(
    path: Path, hasher: "hashlib._Hash", on_bytes: Callable[[int], None] | None = None
) -> str:
    """Hash of a file, read in pieces. `on_bytes` is told the bytes done so far."""
    done = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            hasher.update(piece)
            done += len(piece)
            if on_bytes:
                on_bytes(done)
    return hasher.hexdigest()


def require_free(folder: Path, n_bytes: int) -> None:
    """Do not begin what a full disk would end.

    Raises:
        OSError: There is less room than that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < n_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def require_space(folder: Path, n_bytes: int) -> None:
    """Refuse to begin what cannot be finished.

    Raises:
        DownloadError: The disk has less room than that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise DownloadError(
            f"{n_bytes / 2**20:,.0f} MiB are needed in {folder}, {free / 2**20:,.0f} MiB are free",
            "free some space, or set DEEPSEEK_HOME to a folder on another disk",
        )


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process at a time pull a name. The lock goes with the process, even if killed."""
    file = home() / "locks" / f"{name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        try:
            import fcntl
        except ImportError:  # not a Unix system: two pulls at once would only waste work
            yield
            return
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _stamp(file: Path) -> Path:
    return file.with_name(f".{file.name}.verified")
