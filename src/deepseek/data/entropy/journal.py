"""Attempts that are done, kept portion by portion: a run that was killed goes on from there.

A line of JSON an attempt, and behind each portion a line that ends it. What stands behind the last
such line is dropped and done again, so that a portion is always answered in the same company.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from deepseek.core.errors import ConfigError
from deepseek.data.entropy.attempts import Attempt

Portion = tuple[str, int, int]
"""Family, level, number among the portions of these."""


class AttemptJournal:
    """The finished portions of one run in one file."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        """Open it, and read what an earlier start of the same run left.

        Args:
            path: The file; made with its folder if need be.
            about: The run's settings and versions.

        Raises:
            ConfigError: It is another run's, or cannot be written.
        """
        self.path = path
        self.portions: dict[Portion, tuple[Attempt, ...]] = {}
        self._first = json.dumps({"run": about}, ensure_ascii=False, sort_keys=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            good = self._read() if path.exists() else 0
            self._file: BinaryIO = path.open("ab")
            self._file.truncate(good)
            if not good:
                self._write([self._first])
        except OSError as error:
            raise self._error(error) from None

    def add(self, portion: Portion, attempts: Sequence[Attempt]) -> None:
        """Keep a portion, on disk at once.

        Raises:
            ConfigError: The file cannot be written.
        """
        rows = [attempt.to_dict() for attempt in attempts]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        try:
            self._write([*lines, json.dumps({"end": portion})])
        except OSError as error:
            raise self._error(error) from None
        self.portions[portion] = tuple(attempts)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> int:
        """Take whole portions; return how many bytes they and the first line are."""
        good, place = 0, 0
        waiting: list[Attempt] = []
        with self.path.open("rb") as file:
            for line in file:
                place += len(line)
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                    if good == 0:
                        if row is None and self._first.encode().startswith(line):
                            return 0  # cut off while the run was begun
                        self._require_same(row)
                        good = place
                    elif row is None:
                        break
                    elif "end" in row:
                        family, level, number = row["end"]
                        self.portions[(family, level, number)] = tuple(waiting)
                        waiting, good = [], place
                    else:
                        waiting.append(Attempt.from_dict(row))
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    if good == 0:
                        raise self._another() from None
                    break
        return good

    def _require_same(self, row: Any) -> None:
        if row != json.loads(self._first):
            raise self._another()

    def _another(self) -> ConfigError:
        return ConfigError(
            f"{self.path.parent} holds another run, or this one with other settings",
            "choose another --out, or the settings that it was begun with",
        )

    def _write(self, lines: Sequence[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        self._file.write(text.encode("utf-8", "replace"))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _error(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"cannot write {self.path}: {error.strerror or error}",
            "what is done so far is kept there; free some space and run the same command again",
        )
