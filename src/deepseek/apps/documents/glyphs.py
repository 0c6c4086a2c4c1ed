"""Runs the PDFium child process and takes its characters in."""

import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepseek.core.errors import DocumentError, MissingDependencyError

WALL_SECONDS = 1_200
GENERATED, BOLD, TILTED, MONO = 1, 2, 4, 8


@dataclass(frozen=True, slots=True, eq=False)
class PageGlyphs:
    """What stands on a page, in the order of the file."""

    codes: NDArray[np.int32]
    boxes: NDArray[np.float32]
    """Left, top, right, bottom in points from the top left corner; NaN for added characters."""
    sizes: NDArray[np.float32]
    flags: NDArray[np.uint8]
    width: float
    height: float
    n_images: int
    turn: int = 0
    """Quarters by which the text is turned to the left: 1 or 3 on a page in landscape."""


def read_glyphs(
    path: Path, on_progress: Callable[[int, int], None] | None = None
) -> tuple[list[PageGlyphs], str]:
    """All pages' characters and the title in the file's properties.

    Raises:
        DocumentError: The file is encrypted, corrupt, too long or exhausts its limits.
        MissingDependencyError: pypdfium2 is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="deepseek-") as folder:
        target = Path(folder) / "glyphs.npz"
        run_worker(["glyphs", str(path), str(target)], path, on_progress)
        try:
            return load_glyphs(target)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DocumentError(f"{path} could not be read: {error}", "try it again") from None


def load_glyphs(target: Path) -> tuple[list[PageGlyphs], str]:
    """What the child process wrote: pages and title."""
    with np.load(target, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    pages = []
    start = 0
    for count, (width, height, n_images, turn) in zip(
        arrays["counts"], arrays["pages"], strict=True
    ):
        end = start + int(count)
        pages.append(
            PageGlyphs(
                codes=arrays["codes"][start:end],
                boxes=arrays["boxes"][start:end],
                sizes=arrays["sizes"][start:end],
                flags=arrays["flags"][start:end],
                width=float(width),
                height=float(height),
                n_images=int(n_images),
                turn=int(turn),
            )
        )
        start = end
    return pages, arrays["title"].tobytes().decode("utf-8", "replace").strip()


def run_worker(
    arguments: list[str], path: Path, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Run the child process to its end, telling of its progress.

    Raises:
        DocumentError: It refused, crashed or ran out of time or memory.
        MissingDependencyError: pypdfium2 is not installed.
    """
    command = [sys.executable, "-m", "deepseek.apps.documents.worker", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as child:
        timer = threading.Timer(WALL_SECONDS, child.kill)
        timer.start()
        refusal, errors = "", ""
        try:
            assert child.stdout is not None
            assert child.stderr is not None
            for line in child.stdout:
                word, _, rest = line.strip().partition(" ")
                if word == "page" and on_progress:
                    done, total = rest.split()
                    on_progress(int(done), int(total))
                elif word == "error":
                    refusal = rest
            errors = child.stderr.read()
        finally:
            timer.cancel()
            if child.poll() is None and sys.exc_info()[0] is not None:
                child.kill()
    if refusal:
        raise _refused(path, refusal)
    if child.returncode:
        if "No module named" in errors:
            raise MissingDependencyError(
                "reading PDFs needs pypdfium2 and pillow", "pip install 'deepseek[papers]'"
            )
        why = "it takes too much time or memory" if child.returncode < 0 else "its reader failed"
        last = errors.strip().splitlines()[-1:] or ["no reason given"]
        raise DocumentError(
            f"{path} cannot be read: {why} ({last[0][:200]})",
            "the file is damaged or hostile; try to print it to a new PDF",
        )


def _refused(path: Path, refusal: str) -> DocumentError:
    word, _, rest = refusal.partition(" ")
    if word == "encrypted":
        return DocumentError(
            f"{path} is protected by a password", "save a copy without password and use that"
        )
    if word == "pages":
        return DocumentError(f"{path} has {rest} pages", "split it: at most 5,000 are read")
    return DocumentError(
        f"{path} is no readable PDF ({rest})", "it is damaged or incomplete: fetch it again"
    )
