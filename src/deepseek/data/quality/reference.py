"""Texts that a model of the pipeline is made from, and the cache of such models."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deepseek.core.errors import ConfigError
from deepseek.data.documents import Funnel, documents
from deepseek.data.quality.operator import Context
from deepseek.data.text import text_files
from deepseek.weights.cache import file_hash, home


def reference_files(context: Context, names: Sequence[str], setting: str) -> list[Path]:
    """The files of the named texts.

    Raises:
        ConfigError: There are none.
        DocumentError: A path does not exist.
    """
    paths = [context.path(name) for name in names]
    files = text_files(paths)
    files += [f for p in paths if p.is_dir() for f in sorted(p.rglob("*.jsonl"))]
    if not files:
        raise ConfigError(f"{setting} names no texts", f'write {setting} = ["folder"]')
    return files


def reference_texts(files: Sequence[Path], most: int) -> Iterator[str]:
    """Different texts, until so many characters are read; a long one is cut."""
    left = most
    for document in documents(files, Funnel()):
        yield document.text[:left]
        left -= len(document.text)
        if left <= 0:
            return


def model_file(kind: str, files: Sequence[Path], settings: Any) -> Path:
    """Where a model of these files and settings is kept in the cache."""
    digest = hashlib.sha256(repr((kind, settings)).encode())
    for file in files:
        digest.update(file_hash(file, hashlib.sha256()).encode())
    return home() / "quality" / f"{kind}-{digest.hexdigest()[:32]}.npz"
