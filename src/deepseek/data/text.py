"""Plain files as training text, cut into windows of token ids."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deepseek.core.errors import DocumentError
from deepseek.data.contamination import ContaminationIndex

SUFFIXES = frozenset(".c .cc .go .h .hpp .java .js .md .py .rs .rst .tex .ts .txt".split())
LARGEST = 64 << 20
"""Bytes of a file that is read; larger ones are left out."""


def text_files(paths: Sequence[Path]) -> list[Path]:
    """The named files, and all files of text in the named folders, in order.

    Raises:
        DocumentError: A path does not exist.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
            found += sorted(p for p in inside if p.stat().st_size <= LARGEST)
        elif path.is_file():
            found.append(path)
        else:
            raise DocumentError(f"{path} does not exist", "name files or folders with text")
    return found


def windows(
    files: Sequence[Path],
    encode: Callable[[str], list[int]],
    *,
    size: int,
    counts: Sequence[int],
    seed: int = 0,
    index: ContaminationIndex | None = None,
) -> list[list[list[int]]]:
    """Sets of windows that have no file in common.

    Files are taken in a random order and joined; of each at most two windows, so that many are
    read. Files that are no UTF-8 or share text with an evaluation set are left out.

    Args:
        files: Texts.
        encode: Gives token ids.
        size: Tokens of a window.
        counts: Windows of each set.
        seed: Of the order.
        index: Evaluation texts that must not be among them.

    Raises:
        DocumentError: There is not enough text.
    """
    order = sorted(files)
    random.Random(seed).shuffle(order)
    texts = _texts(order, index)
    sets = []
    for count in counts:
        ids: list[int] = []
        while len(ids) < count * size:
            text = next(texts, None)
            if text is None:
                raise DocumentError(
                    f"{len(files)} files are too little text for {sum(counts)} windows of {size:,} "
                    "tokens",
                    "name more files, or ask for fewer windows",
                )
            ids += encode(text[: 16 * size])[: 2 * size]
        sets.append([ids[i * size : (i + 1) * size] for i in range(count)])
    return sets


def _texts(files: Sequence[Path], index: ContaminationIndex | None) -> Iterator[str]:
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if text.strip() and not (index and index.matches(text)):
            yield text
