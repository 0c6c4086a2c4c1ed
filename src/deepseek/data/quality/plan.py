"""What a run reads, cut into shards: the same cut whoever reads it, however many there are."""

import fnmatch
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deepseek.core.errors import ConfigError, DocumentError, MissingDependencyError
from deepseek.data.quality.config import CleanConfig, SourceSettings
from deepseek.data.text import SUFFIXES

KINDS = {
    **dict.fromkeys(SUFFIXES, "text"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".parquet": "parquet",
    ".pdf": "pdf",
}
NEEDS = {"parquet": "pyarrow", "html": "resiliparse", "pdf": "pypdfium2", ".zst": "pyarrow"}
"""Packages of the extra `data`, by kind or end of the name."""
MAX_FILES = 4_096
"""Files of a shard; of PDF files a 64th, they take longer."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file of a shard, or a part of one."""

    path: str
    name: str
    """Source and path below it: the beginning of its documents' identifiers."""
    kind: str
    size: int
    changed: int
    """When, in nanoseconds."""
    start: int = 0
    """First byte of the lines, or row group, of a part."""
    end: int = -1
    """The one after the last; -1 is the file's end."""


@dataclass(frozen=True, slots=True)
class Shard:
    """What one task reads."""

    source: str
    items: tuple[Item, ...]

    @classmethod
    def from_json(cls, text: str) -> "Shard":
        """From `as_json`."""
        table = json.loads(text)
        return cls(table["source"], tuple(Item(**item) for item in table["items"]))

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def make_plan(config: CleanConfig) -> list[Shard]:
    """All shards, source after source, files in the order of their names.

    Raises:
        DocumentError: A path does not exist.
        ConfigError: A source has no files.
        MissingDependencyError: A kind of file needs a package that is not installed.
    """
    shards: list[Shard] = []
    for name, source in config.sources.items():
        items = list(_items(config, name, source))
        if not items:
            raise ConfigError(f"source {name} has no files", "look at its paths, kind and include")
        for kind in {NEEDS.get(i.kind, "") for i in items} | {
            NEEDS.get(Path(i.path).suffix, "") for i in items
        }:
            _require(kind)
        shards += _packed(name, items, config.settings.shard_bytes)
    return shards


def _items(config: CleanConfig, name: str, source: SourceSettings) -> Iterator[Item]:
    for text in source.paths:
        root = config.path(text)
        if root.is_dir():
            inside = ((file.relative_to(root).as_posix(), file) for file in root.rglob("*"))
            files = sorted(pair for pair in inside if pair[1].is_file())
        elif root.is_file():
            files = [(root.name, root)]
        else:
            raise DocumentError(f"{root} does not exist", f"look at sources.{name}.paths")
        for relative, file in files:
            kind = KINDS.get(_suffix(file.name), "") if source.kind == "auto" else source.kind
            if root.is_dir() and (
                not _is_included(file.name, source) or not kind or _is_hidden(relative)
            ):
                continue
            status = file.stat()
            yield Item(
                str(file),
                f"{name}/{relative}",
                kind or "text",
                status.st_size,
                status.st_mtime_ns,
            )


def _is_included(name: str, source: SourceSettings) -> bool:
    if source.include:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in source.include)
    if source.kind in ("auto", "text"):
        return True
    return KINDS.get(_suffix(name)) == source.kind


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))


def _suffix(name: str) -> str:
    parts = name.lower().rsplit(".", 2)
    double = "." + ".".join(parts[1:])
    return double if len(parts) == 3 and double in KINDS else "." + parts[-1]


def _packed(source: str, items: Sequence[Item], room: int) -> Iterator[Shard]:
    """Large files in parts, small ones together."""
    waiting: list[Item] = []
    for item in items:
        parts = list(_parts(item, room))
        if len(parts) > 1 or item.size >= room:
            if waiting:
                yield Shard(source, tuple(waiting))
            waiting = []
            yield from (Shard(source, (part,)) for part in parts)
            continue
        most = MAX_FILES // 64 if item.kind == "pdf" else MAX_FILES
        if waiting and (sum(i.size for i in waiting) + item.size > room or len(waiting) >= most):
            yield Shard(source, tuple(waiting))
            waiting = []
        waiting.append(item)
    if waiting:
        yield Shard(source, tuple(waiting))


def _parts(item: Item, room: int) -> Iterator[Item]:
    """Plain lines by bytes, Parquet by row groups; a part has the lines that begin in it."""
    cuts: list[int] = []
    if item.kind == "jsonl" and item.path.lower().endswith(".jsonl"):
        cuts = list(range(0, item.size, room))
    elif item.kind == "parquet":
        cuts = _row_groups(item, room)
    if len(cuts) < 2:
        yield item
        return
    for start, end in zip(cuts, [*cuts[1:], -1], strict=True):
        yield Item(item.path, item.name, item.kind, item.size, item.changed, start, end)


def _row_groups(item: Item, room: int) -> list[int]:
    """The row groups at which parts begin; none where the file is damaged."""
    from deepseek.data.quality.parquet import group_sizes

    cuts, filled = [], room
    for number, size in enumerate(group_sizes(Path(item.path))):
        if filled + size > room:
            cuts.append(number)
            filled = 0
        filled += size
    return cuts


def _require(package: str) -> None:
    import importlib.util

    if package and importlib.util.find_spec(package) is None:
        raise MissingDependencyError(
            f"a source needs {package}, which is not installed", "pip install 'deepseek[data]'"
        )
