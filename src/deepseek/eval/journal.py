"""Items that are done, written as they are finished: a run that was killed goes on from here.

One line of JSON a record, under a first line that names the run. A line that was cut off when
the process died is dropped; a journal of another run is moved aside, not overwritten.
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from deepseek.core.errors import RequestError
from deepseek.eval.record import Record, record_of


def fingerprint(*parts: object) -> str:
    """A short name of a run: the same parts, the same name."""
    text = json.dumps([str(part) for part in parts], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Journal:
    """The finished records of one task in one file."""

    def __init__(self, path: Path, run: str, *, fresh: bool = False) -> None:
        """Open a journal, and read what an earlier start of the same run left.

        Args:
            path: The file; made with its folder if need be.
            run: The run's fingerprint.
            fresh: Forget what was done before.

        Raises:
            RequestError: The file cannot be read or written.
        """
        self.path = path
        self.records: dict[str, Record] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            good = 0
            if path.exists() and not fresh:
                good = self._read(run)
            if path.exists() and not good:
                os.replace(path, path.with_suffix(".old.jsonl"))
            self._file = path.open("ab")
            self._file.truncate(good)
            if not good:
                self._write({"run": run})
        except OSError as error:
            raise self._error(error) from None

    def add(self, record: Record) -> None:
        """Keep one finished record, on disk at once.

        Raises:
            RequestError: The file cannot be written.
        """
        self.records[record.id] = record
        try:
            self._write(asdict(record))
        except OSError as error:
            raise self._error(error) from None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _read(self, run: str) -> int:
        """Take the records of the same run; return how many bytes are whole lines of it."""
        good = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                try:
                    if not line.endswith(b"\n"):
                        break
                    row = json.loads(line)
                    if number == 0:
                        if row != {"run": run}:
                            return 0
                    else:
                        record = record_of(row)
                        self.records[record.id] = record
                except (ValueError, TypeError, AttributeError, RecursionError):
                    break
                good += len(line)
        return good

    def _write(self, row: dict[str, object]) -> None:
        line = json.dumps(row, ensure_ascii=False) + "\n"
        self._file.write(line.encode("utf-8", "replace"))
        self._file.flush()

    def _error(self, error: OSError) -> RequestError:
        return RequestError(
            f"cannot write {self.path}: {error.strerror or error}",
            "what is done so far is kept there; free some space and run the same command again",
        )
