"""Texts that benchmarks train on and measure with: Debian packages, fetched once, in pieces."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

from deepseek.data.quality.config import CleanConfig, CleanSettings, SourceSettings
from deepseek.data.quality.plan import make_plan
from deepseek.data.quality.readers import Reader
from deepseek.data.quality.record import Record
from deepseek.weights.cache import home
from report import say

MANUAL = "python3.11-doc"
"""Python's manual; the Python Software Foundation's licence."""
BOOK = "debian-handbook"
"""A book on running Debian; GPL-2+ or CC BY-SA 3.0."""
DATABASE = "postgresql-doc-15"
"""PostgreSQL's manual; its licence is like BSD's."""
PAGES = {MANUAL: "*.rst.txt", BOOK: "en-US/*.html", DATABASE: "*.html"}


def package(name: str) -> Path:
    """A package's pages, fetched once, in a folder: numbered in the order of their paths."""
    folder = home() / "texts" / name
    if not folder.exists():
        say(f"fetching {name}")
        with tempfile.TemporaryDirectory() as work:
            subprocess.run(["apt-get", "download", name], cwd=work, check=True)
            deb = next(Path(work).glob("*.deb"))
            subprocess.run(["dpkg-deb", "-x", deb, f"{work}/files"], check=True)
            pages = sorted(Path(work, "files").rglob(PAGES[name]))
            made = Path(work, "made")
            made.mkdir()
            for number, page in enumerate(pages):
                made.joinpath(f"{number:03d}-{page.name}").write_bytes(page.read_bytes())
            folder.parent.mkdir(parents=True, exist_ok=True)
            whole = Path(tempfile.mkdtemp(dir=folder.parent)) / name
            shutil.copytree(made, whole)
            with contextlib.suppress(OSError):  # another run was faster
                whole.rename(folder)
            shutil.rmtree(whole.parent)
    return folder


def read(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Names and texts of files, through our readers."""
    sources = {
        f"s{i}": SourceSettings(paths=[str(path.absolute())]) for i, path in enumerate(paths)
    }
    config = CleanConfig(Path.cwd(), CleanSettings(), sources, ())
    reader = Reader(config.settings)
    for shard in make_plan(config):
        for found in reader.read(shard, sources[shard.source]):
            if isinstance(found, Record):
                yield found.id, found.text
    reader.close()


def shuffled(pairs: Iterable[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """Pairs in the order of their names' digests."""
    return sorted(pairs, key=lambda pair: blake2b(pair[0].encode()).digest())[:most]


def cut(text: str, size: int) -> Iterator[str]:
    """Pieces of whole lines, each of so many characters or a little more; no shorter rest."""
    piece = ""
    for line in text.split("\n"):
        piece += line + "\n"
        if len(piece) >= size:
            yield piece.strip()
            piece = ""


def is_held_out(name: str, share: float) -> bool:
    """Whether a document of that name is among those that nothing is learned from."""
    digest = blake2b(Path(name).name.encode(), digest_size=4, person=b"held out").digest()
    return int.from_bytes(digest, "little") < share * 2**32
