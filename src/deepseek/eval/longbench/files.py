"""LongBench's own files: JSON lines, one file a dataset, loose or in the official `data.zip`.

The files are the user's: every line is checked, lines and files have bounds, and a mistake names
the file and the line.
"""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepseek.core.errors import RequestError
from deepseek.eval.longbench import metrics
from deepseek.eval.longbench.datasets import DATASETS

SOURCE = (
    "hf:datasets/THUDM/LongBench from the Hugging Face hub, or your copy of its data.zip,"
    " as it is or unpacked, or one of its .jsonl files"
)
LINE = 64 << 20
"""Bytes of a line; the longest of the original has two million."""
LINES = 20_000
"""Lines of a file; the originals have 500 at most."""

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)
"""What archives raise that are damaged, encrypted or packed in an unknown way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One line of a file."""

    id: str
    context: str
    question: str
    """Named `input` in the files; empty where the prompt asks by itself."""
    answers: list[str]
    classes: list[str]
    """The classes of a classification, else none."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the lines of one dataset are: a file, or a member of an archive."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path.name}:{self.member}" if self.member else str(self.path)


def find_datasets(path: Path) -> dict[str, Source]:
    """The datasets that a file, a folder or an archive holds, in the official order.

    Raises:
        RequestError: It holds none, or cannot be read.
    """
    if path.is_dir():
        found = _loose(path) or _loose(path / "data")
        if not found and (path / "data.zip").is_file():
            found = _packed(path / "data.zip")
    elif path.suffix == ".zip":
        found = _packed(path)
    else:
        found = {path.stem: Source(path)} if path.is_file() and path.stem in DATASETS else {}
    if not found:
        raise RequestError(
            f"{path} holds no dataset of LongBench such as qasper.jsonl",
            f"give --data: {SOURCE}",
        )
    return {name: found[name] for name in DATASETS if name in found}


def read_samples(name: str, source: Source) -> list[Sample]:
    """All samples of one dataset.

    Raises:
        RequestError: The file cannot be read or a line is not as LongBench's are.
    """
    samples: dict[str, Sample] = {}
    try:
        for number, line in enumerate(_lines(source), start=1):
            if number > LINES:
                raise RequestError(f"{source} has more than {LINES:,} lines", "split the file")
            if line.strip():
                sample = _sample(name, f"{source}, line {number}", number, line)
                # Two lines of one id stay two samples.
                samples[f"{sample.id}-{number}" if sample.id in samples else sample.id] = sample
    except DAMAGE as error:
        raise RequestError(f"cannot read {source}: {error}", f"get it again: {SOURCE}") from None
    if not samples:
        raise RequestError(f"{source} is empty", f"get it again: {SOURCE}")
    return [replace(sample, id=key) for key, sample in samples.items()]


def _loose(folder: Path) -> dict[str, Source]:
    files = {name: folder / f"{name}.jsonl" for name in DATASETS}
    return {name: Source(file) for name, file in files.items() if file.is_file()}


def _packed(path: Path) -> dict[str, Source]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except DAMAGE as error:
        raise RequestError(f"cannot read {path}: {error}", f"get it again: {SOURCE}") from None
    named = {Path(member).stem: member for member in members if member.endswith(".jsonl")}
    return {name: Source(path, named[name]) for name in DATASETS if name in named}


def _lines(source: Source) -> Iterator[bytes]:
    if not source.member:
        with source.path.open("rb") as file:
            yield from _bounded(source, file.readline)
        return
    with zipfile.ZipFile(source.path) as archive, archive.open(source.member) as file:
        yield from _bounded(source, file.readline)


def _bounded(source: Source, read: Callable[[int], bytes]) -> Iterator[bytes]:
    while line := read(LINE + 1):
        if len(line) > LINE:
            raise RequestError(f"{source} has a line of more than {LINE >> 20} MiB", "split it")
        yield line


def _sample(name: str, place: str, number: int, line: bytes) -> Sample:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{place}: no JSON: {error}", f"get the file again: {SOURCE}") from None
    wrong = _mistake(name, row)
    if wrong:
        raise RequestError(
            f"{place}: {wrong}", "LongBench's lines have input, context, answers and all_classes"
        )
    return Sample(
        id=str(row.get("_id") or number),
        context=row["context"],
        question=row["input"],
        answers=row["answers"],
        classes=row.get("all_classes") or [],
    )


def _mistake(name: str, row: Any) -> str:
    """What is wrong with a line, or nothing."""
    if not isinstance(row, dict):
        return "no JSON object"
    for key in ("input", "context"):
        if not isinstance(row.get(key), str):
            return f"{key} is no text"
    if not _are_texts(row.get("answers")) or not row["answers"]:
        return "answers is no list of texts"
    classes = row.get("all_classes")
    if classes is not None and not _are_texts(classes):
        return "all_classes is no list of texts"
    if DATASETS[name].metric is metrics.classification and not classes:
        return "all_classes is missing"
    return ""


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)
