"""Documents as lines of JSON in files that appear whole or not at all."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from deepseek.data.quality.document import Document

NEW = ".new-"
"""How the names of files begin while they are written."""


def shard_name(number: int) -> str:
    """Of a file that belongs to a shard."""
    return f"{number:05}.jsonl"


def line_of(table: dict[str, Any]) -> str:
    """A line of JSON; empty entries are left out, texts stay readable."""
    return json.dumps({k: v for k, v in table.items() if v or k == "text"}, ensure_ascii=False)


def document_line(document: Document) -> str:
    """A document as a line."""
    return line_of(asdict(document))


def documents_in(path: Path) -> Iterator[Document]:
    """The documents of a file that `document_line` wrote."""
    for table in tables_in(path):
        yield Document(**table)


def tables_in(path: Path, part: str = "") -> Iterator[dict[str, Any]]:
    """The objects of a file of lines; only of lines that have a part in them."""
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            if part in line:
                yield json.loads(line)


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[TextIO]:
    """A file that has its name when the block ends without an error.

    What a killed writer leaves begins with `NEW`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{NEW}{os.getpid()}-{path.name}")
    try:
        with new.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
