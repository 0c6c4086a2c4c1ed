"""A folder of pages of prompts' beginnings: bounded, private, and shared by processes.

    lock            held while files come and go; counts how often they did
    new/            files that are being written
    <identity>/     pages of one model with its settings, each named by its key

A file is whole under its name or not there, so that reading needs no lock: what vanishes or is
damaged meanwhile is read by the model instead.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxtyping import UInt8
from torch import Tensor

from deepseek.core.errors import ConfigError, ContextError
from deepseek.core.log import LOGGER
from deepseek.core.memory import parse_bytes
from deepseek.model.prefix_page import HEADER_BYTES, header_of, read_page
from deepseek.weights.cache import home, remove_if_left, try_lock

MOST_BYTES = 4 << 30
"""Of all files, if nothing else is said."""
SPARE_BYTES = 256 << 20
"""Left free on the disk: others need some, too."""
KEPT_SHARE = 0.95
"""Of the bound, what is kept when files must go: so they go many at a time."""
LOCK_SECONDS = 2.0
"""How long another process may have the lock before a page is given up."""
REMEMBERED = 4_096
"""Pages of which it is known why they are not there."""
FOLDER_NAME, FILE_NAME = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}\.page")
HINT = "name a folder of your own with prefix_cache (--prefix-cache), or leave it out"

Why = Literal["dropped for size", "damaged on disk", "read with other weights or settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixSettings:
    """Where beginnings of prompts are kept on a disk."""

    path: Path
    most_bytes: int = MOST_BYTES
    tenant: str = ""
    """Whose prompts they are: those of different ones share nothing."""
    is_required: bool = True
    """Whether it is an error if the model's pages cannot be kept there."""


def choose_prefixes(
    prefix_cache: str | Path | None, size: int | str | None = None
) -> PrefixSettings | None:
    """What is asked for.

    Args:
        prefix_cache: A folder; `auto`: one in the user's cache; None: nothing is kept.
        size: Bytes of all files, or a size such as `4GiB`; None: `MOST_BYTES`.

    Raises:
        ConfigError: The size is none, or given without a folder.
    """
    if prefix_cache is None:
        if size is not None:
            raise ConfigError(
                "a size for the prefix cache is given, and no folder",
                'give prefix_cache="auto" (--prefix-cache auto), or leave the size out',
            )
        return None
    is_auto = prefix_cache == "auto"
    path = home() / "prefixes" if is_auto else Path(prefix_cache).expanduser().resolve()
    most = MOST_BYTES if size is None else parse_bytes(size)
    return PrefixSettings(path=path, most_bytes=most, is_required=not is_auto)


@dataclass(slots=True)
class FolderCounts:
    """What became of pages so far."""

    read: int = 0
    written: int = 0
    dropped: int = 0
    """For size."""
    damaged: int = 0


@dataclass(slots=True)
class _File:
    size: int
    used: int
    """When it was, in nanoseconds; the file's time of change says so to others."""


@dataclass(slots=True)
class _Known:
    """What is known of files, under one lock."""

    files: dict[str, _File] = field(default_factory=dict)
    renewed: set[str] = field(default_factory=set)
    """Files that were used since their time of change."""
    gone: dict[bytes, Why] = field(default_factory=dict)
    guard: threading.Lock = field(default_factory=threading.Lock)


class PrefixFolder:
    """The pages of one model in a folder that may hold those of others, too.

    Reading and writing may go on in two threads at once.
    """

    def __init__(self, path: Path, identity: bytes, n_bytes: int, most_bytes: int) -> None:
        """Open it, or make it.

        Args:
            path: Of the folder.
            identity: Of all that decides the numbers, 32 bytes.
            n_bytes: Of a page's content.
            most_bytes: Of the files of all models together.

        Raises:
            ConfigError: It cannot be used, or others could write there.
        """
        self._root, self._identity, self._n_bytes = path, identity, n_bytes
        self.size = HEADER_BYTES + n_bytes
        """Bytes of a file."""
        self.most_bytes = most_bytes
        self.counts = FolderCounts()
        self._own = identity.hex()[:32]
        self._known, self._generation = _Known(), -1
        if most_bytes < self.size:
            raise ConfigError(
                f"a prefix cache of {most_bytes:,} bytes does not hold a page of {self.size:,}",
                "give a larger size",
            )
        _require_locks()
        try:
            for folder in (path, path / self._own, path / "new"):
                _make_private(folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._lock = os.open(path / "lock", flags, 0o600)
            for left in (path / "new").iterdir():
                remove_if_left(left)
            with self._locked():
                self._make_room(0)
        except OSError as error:
            raise ConfigError(f"{path} cannot be used: {error.strerror or error}", HINT) from None

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._lock)

    @property
    def n_bytes(self) -> int:
        """Bytes of all files, as far as this process knows."""
        with self._known.guard:
            return sum(file.size for file in self._known.files.values())

    def has(self, key: bytes) -> bool:
        """Whether there is a file for a page."""
        return os.path.exists(self._path(key))

    def ask_for(self, keys: Sequence[bytes]) -> None:
        """Let the system begin to read some pages, where it can."""
        if not hasattr(os, "posix_fadvise"):
            return
        for key in keys:
            with contextlib.suppress(OSError):
                handle = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(handle)

    def read(self, key: bytes) -> UInt8[Tensor, " N"] | None:
        """A page's content; None: it is not there any more, or damaged. `why` then knows."""
        try:
            content = read_page(self._path(key), self._identity, key, self._n_bytes)
        except FileNotFoundError:
            self._note(key, "dropped for size")  # by another process
            return None
        except ContextError as error:
            self.drop_damaged(key, error.message)
            return None
        except OSError as error:
            LOGGER.warning("a page of the prefix cache cannot be read: %s", error)
            return None
        self.counts.read += 1
        with self._known.guard:
            name = self._name(key)
            self._known.files.setdefault(name, _File(self.size, time.time_ns()))
            self._known.renewed.add(name)
        return content

    def drop_damaged(self, key: bytes, message: str) -> None:
        """Remove a page that does not hold what was written."""
        LOGGER.warning("dropped from the prefix cache: %s", message)
        self.counts.damaged += 1
        with contextlib.suppress(OSError):
            self._path(key).unlink()
        with self._known.guard:
            self._known.files.pop(self._name(key), None)
        self._note(key, "damaged on disk")

    def why(self, key: bytes) -> Why | None:
        """Why a page is not there, as far as that is known."""
        with self._known.guard:
            found = self._known.gone.get(key)
        if found is None and any(self._others(key)):
            return "read with other weights or settings"
        return found

    def was_dropped(self, key: bytes) -> bool:
        """Whether a page made way for others."""
        with self._known.guard:
            return self._known.gone.get(key) == "dropped for size"

    def write(self, key: bytes, content: UInt8[Tensor, " N"]) -> None:
        """Keep a page, in place of those that were not used for the longest.

        Raises:
            OSError: It cannot be written; the disk may be full.
        """
        used = time.time_ns()
        if shutil.disk_usage(self._root).free < self.size + SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        handle, name = tempfile.mkstemp(dir=self._root / "new")
        try:
            try_lock(handle)  # it goes with the process: what is left without may be removed
            for part in (header_of(self._identity, key, content), content.numpy().data):
                _write_all(handle, part)
            os.utime(name, ns=(used, used))
            # Without fsync: after a power cut a file may be damaged, and then is read as such.
            with self._locked():
                self._make_room(self.size)
                self._count_change()
                os.replace(name, self._path(key))
            with self._known.guard:
                self._known.files[self._name(key)] = _File(self.size, used)
                self._known.gone.pop(key, None)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        self.counts.written += 1

    def renew(self, keys: Sequence[bytes]) -> None:
        """Note that the pages of a prompt's beginning are used, the first ones as the latest."""
        now = time.time_ns()
        with self._known.guard:
            for depth, key in enumerate(keys):
                name = self._name(key)
                if (file := self._known.files.get(name)) is not None:
                    file.used = now - depth
                    self._known.renewed.add(name)

    def settle(self) -> None:
        """Tell other processes, and those to come, what was used."""
        with self._known.guard:
            files, renewed = self._known.files, self._known.renewed
            times = {name: files[name].used for name in renewed if name in files}
            renewed.clear()
        for name, used in times.items():
            with contextlib.suppress(OSError):
                os.utime(self._root / name, ns=(used, used), follow_symlinks=False)

    # Files that come and go, under the lock of all processes.

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Have the folder for oneself, and know what is there."""
        until = time.monotonic() + LOCK_SECONDS
        while not try_lock(self._lock):
            if time.monotonic() > until:
                raise TimeoutError(f"{self._root} is locked by another process")
            time.sleep(0.005)
        try:
            if self._count() != self._generation:
                self._look()
                self._generation = self._count()
            yield
        finally:
            _unlock(self._lock)

    def _count(self) -> int:
        """How often files came or went."""
        return int.from_bytes(os.pread(self._lock, 8, 0), "little")

    def _count_change(self) -> None:
        # Before the change: should this process end in the middle of it, others look again.
        self._generation = (self._generation + 1) % (1 << 64)
        os.pwrite(self._lock, self._generation.to_bytes(8, "little"), 0)

    def _look(self) -> None:
        """Find all files."""
        found = dict[str, _File]()
        for folder in self._folders():
            with contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(folder):
                    if FILE_NAME.fullmatch(entry.name):
                        with contextlib.suppress(FileNotFoundError):
                            status = entry.stat(follow_symlinks=False)
                            name = f"{folder.name}/{entry.name}"
                            found[name] = _File(status.st_size, status.st_mtime_ns)
        known = self._known
        with known.guard:
            for name, before in known.files.items():
                if name in found:
                    found[name].used = max(found[name].used, before.used)
            lost = [name for name in known.files if name not in found]
            known.files = found
        self._note_dropped(lost)

    def _make_room(self, n_bytes: int) -> None:
        """Remove what was not used for the longest, if some bytes more are too many."""
        with self._known.guard:
            files = self._known.files
            total = sum(file.size for file in files.values())
            if total + n_bytes <= self.most_bytes:
                return
            kept = max(0, min(int(KEPT_SHARE * self.most_bytes), self.most_bytes - n_bytes))
            names = list[str]()
            for name in sorted(files, key=lambda name: files[name].used):
                if total <= kept:
                    break
                names.append(name)
                total -= files.pop(name).size
        self._count_change()
        for name in names:
            (self._root / name).unlink(missing_ok=True)
        self.counts.dropped += len(names)
        self._note_dropped(names)

    def _note_dropped(self, names: Sequence[str]) -> None:
        for name in names:
            folder, _, file = name.partition("/")
            if folder == self._own:
                self._note(bytes.fromhex(file.removesuffix(".page")), "dropped for size")

    def _note(self, key: bytes, why: Why) -> None:
        with self._known.guard:
            self._known.gone[key] = why
            if len(self._known.gone) > REMEMBERED:
                del self._known.gone[next(iter(self._known.gone))]

    # Where files are.

    def _name(self, key: bytes) -> str:
        return f"{self._own}/{key.hex()}.page"

    def _path(self, key: bytes) -> Path:
        return self._root / self._name(key)

    def _folders(self) -> list[Path]:
        """Of all models."""
        return [
            Path(entry.path)
            for entry in os.scandir(self._root)
            if FOLDER_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]

    def _others(self, key: bytes) -> Iterator[bool]:
        """Whether other models have a page of the same tokens."""
        with contextlib.suppress(OSError):
            for folder in self._folders():
                if folder.name != self._own:
                    yield (folder / f"{key.hex()}.page").exists()


def _make_private(folder: Path) -> None:
    """Make sure of a folder in which nobody else can write: who can decides what is answered.

    Raises:
        ConfigError: Somebody can.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat(follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{folder} is no folder", HINT)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ConfigError(f"others may write in {folder}, and so decide what is answered", HINT)


def _require_locks() -> None:
    """Make sure that processes can keep out of each other's way.

    Raises:
        ConfigError: The system has no such locks.
    """
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise ConfigError("a prefix cache on disk needs a Unix system", HINT) from None


def _unlock(handle: int) -> None:
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_UN)


def _write_all(handle: int, part: bytes | memoryview) -> None:
    rest = memoryview(part)
    while rest:
        rest = rest[os.write(handle, rest) :]
