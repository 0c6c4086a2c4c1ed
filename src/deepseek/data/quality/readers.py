"""Files to records: lines of JSON (also gzip, zstd), Parquet, plain text and code, HTML, PDF."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek.data.quality.config import CleanSettings, SourceSettings
from deepseek.data.quality.extraction import Extractor
from deepseek.data.quality.parquet import rows
from deepseek.data.quality.plan import Item, Shard
from deepseek.data.quality.record import MAX_KEPT, Flaw, Record, checked

Found = Iterator[Record | Flaw]
SKIP = 1 << 20
"""Bytes at once while the rest of an absurd line is passed over."""


class Reader:
    """Reads shards of one source after another; keeps one child process for HTML and PDF."""

    def __init__(self, settings: CleanSettings) -> None:
        self._most = settings.max_document_bytes
        self._extractor = Extractor(self._most)

    def read(self, shard: Shard, source: SourceSettings) -> Found:
        """All records and flaws of a shard, in the order of its files."""
        for item in shard.items:
            try:
                yield from self._item(item, source)
            except OSError as error:
                yield Flaw(item.name, f"cannot be read: {error.strerror or error}")

    def close(self) -> None:
        """End the child process."""
        self._extractor.close()

    def _item(self, item: Item, source: SourceSettings) -> Found:
        path = Path(item.path)
        if item.kind == "jsonl":
            yield from self._lines(item, path, source)
        elif item.kind == "parquet":
            for row in rows(path, item.name, item.start, item.end):
                yield row if isinstance(row, Flaw) else self._row(*row, source)
        elif item.size > self._most:
            yield Flaw(item.name, f"{item.size:,} bytes are more than {self._most:,}")
        elif item.kind in ("html", "pdf"):
            text, title, flaw = self._extractor.text(path, item.kind)
            found = Flaw(item.name, flaw) if flaw else checked(item.name, text)
            if isinstance(found, Record) and title:
                found.metadata["title"] = title
            yield found
        else:
            yield _plain(item.name, path.read_bytes())

    def _lines(self, item: Item, path: Path, source: SourceSettings) -> Found:
        """Lines by their first bytes, so that a part of a file names them as the whole would."""
        place = item.start
        try:
            with _opened(path) as file:
                if item.start:
                    file.seek(item.start - 1)  # a line that begins before belongs to that part
                    place += _skip(file) - 1
                while item.end < 0 or place < item.end:
                    line = file.readline(self._most + 1)
                    if not line:
                        break
                    start, place = place, place + len(line)
                    name = f"{item.name}@{start}"
                    if len(line) > self._most:
                        place += _skip(file) if not line.endswith(b"\n") else 0
                        reason = f"a line of {place - start:,} bytes is more than {self._most:,}"
                        yield Flaw(name, reason, line[:MAX_KEPT])
                    elif line.strip():
                        yield self._line(name, line, source)
        except (EOFError, zlib.error, OSError) as error:
            if path.suffix == ".jsonl":
                raise
            yield Flaw(f"{item.name}@{place}", f"the compressed file breaks off: {error}")

    def _line(self, name: str, line: bytes, source: SourceSettings) -> Record | Flaw:
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            return Flaw(name, f"no UTF-8 at byte {error.start}", line)
        except (ValueError, RecursionError) as error:
            return Flaw(name, f"no JSON: {error}"[:200], line)
        if not isinstance(row, dict):
            return Flaw(name, "no JSON object", line)
        return self._row(name, row, source)

    def _row(self, name: str, row: dict[str, Any], source: SourceSettings) -> Record | Flaw:
        row = dict(row)
        text, own = row.pop(source.text_key, None), row.pop(source.id_key, None)
        if not isinstance(text, str):
            return Flaw(name, f"no text under {source.text_key!r}", repr(row)[:MAX_KEPT].encode())
        if len(text.encode("utf-8", "replace")) > self._most:
            return Flaw(name, f"a text of more than {self._most:,} bytes", text[:MAX_KEPT].encode())
        found = checked(name, text)
        if isinstance(found, Flaw):
            return found
        try:
            metadata = json.loads(json.dumps(row, default=str, allow_nan=False))
            json.dumps(metadata, ensure_ascii=False).encode("utf-8")
        except (ValueError, RecursionError) as error:
            return Flaw(name, f"metadata that JSON cannot hold: {error}"[:200])
        has_id = isinstance(own, str | int) and str(own).isprintable() and str(own)
        return Record(str(own) if has_id else name, text, metadata)


def _plain(name: str, data: bytes) -> Record | Flaw:
    try:
        return checked(name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Flaw(name, f"no UTF-8 at byte {error.start}", data[:MAX_KEPT])


def _opened(path: Path) -> io.BufferedIOBase:
    name = path.name.lower()
    if name.endswith(".gz"):
        return gzip.open(path, "rb")
    if name.endswith(".zst"):
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))
    return path.open("rb")


def _skip(file: io.BufferedIOBase) -> int:
    """Bytes to the line's end, not kept."""
    skipped = 0
    while piece := file.readline(SKIP):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped
