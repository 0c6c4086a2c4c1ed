"""The file of a contamination index: one `.npz` that NumPy opens without unpickling.

The same index always gives the same bytes. Of a file that is read, nothing is trusted.
"""

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt32

from deepseek.core.config import build
from deepseek.core.errors import ConfigError
from deepseek.data.grams import GRAM, SHORTEST, Hashes
from deepseek.weights.cache import write_atomically

VERSION = 1
MAX_FILE_BYTES = 8 << 30
MAX_METADATA_BYTES = 64 << 20
_HINT = "make it anew with deepseek eval index"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedTask:
    """One evaluation set in the index."""

    name: str
    licence: str
    n_texts: int
    """Different texts of at least 8 tokens."""
    n_skipped: int
    """Shorter ones, and repetitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexInfo:
    """What an index was made of."""

    tasks: tuple[IndexedTask, ...]
    sources: dict[str, str] = field(default_factory=dict)
    """Files and their SHA-256."""
    n_set_phrases: int = 0
    """Grams left out because they stand in many texts of a task."""


@dataclass(frozen=True, slots=True)
class IndexArrays:
    """The grams and whose they are."""

    grams: Mapping[int, Hashes]
    """Sorted, by the number of tokens."""
    owners: Mapping[int, UInt32[np.ndarray, " n"]]
    """The owner set of each gram."""
    owner_sets: tuple[tuple[int, ...], ...]
    """Places in `IndexInfo.tasks`."""


def write_index(path: Path, info: IndexInfo, arrays: IndexArrays) -> int:
    """Write an index whole or not at all, and return its bytes.

    Raises:
        ConfigError: The place cannot be written.
    """
    table = {"version": VERSION, "gram": GRAM, "shortest": SHORTEST, **asdict(info)}
    table["owner_sets"] = arrays.owner_sets
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        _put(archive, "metadata.json", json.dumps(table, ensure_ascii=False).encode())
        for length, array in arrays.grams.items():
            _put(archive, f"grams_{length}.npy", _npy(array, "<u8"))
            _put(archive, f"owners_{length}.npy", _npy(arrays.owners[length], "<u4"))
    try:
        write_atomically(path, packed.getvalue())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", "check the path") from None
    return packed.getbuffer().nbytes


def read_index(path: Path) -> tuple[IndexInfo, IndexArrays]:
    """Read an index.

    Raises:
        ConfigError: The file is missing, damaged, hostile or no index of this version.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError("it is too large for an index")
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: _member(archive, member) for member in archive.infolist()}
        return _checked(members)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "check the path") from None
    except ConfigError as error:
        raise ConfigError(f"{path} is no valid index: {error.message}", _HINT) from None
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, RuntimeError, EOFError) as error:
        raise ConfigError(f"{path} is no valid index: {error}", _HINT) from None


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


def _npy(array: np.ndarray[Any, np.dtype[Any]], dtype: str) -> bytes:
    packed = io.BytesIO()
    np.lib.format.write_array(
        packed, array.astype(dtype, copy=False), version=(1, 0), allow_pickle=False
    )
    return packed.getvalue()


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a member that is stored as it is: nothing can unfold to more than the file."""
    if not re.fullmatch(r"metadata\.json|(grams|owners)_\d{1,2}\.npy", member.filename):
        raise ConfigError(f"it holds {member.filename!r}, which no index has")
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        raise ConfigError(f"{member.filename} is compressed, which in an index nothing is")
    return archive.read(member)


def _checked(members: Mapping[str, bytes]) -> tuple[IndexInfo, IndexArrays]:
    """The parts of an index out of a file's members."""
    table = _metadata(members["metadata.json"])
    tasks = tuple(build(IndexedTask, row, "tasks.") for row in table.pop("tasks"))
    owner_sets = tuple(tuple(row) for row in table.pop("owner_sets"))
    if any(type(i) is not int or not 0 <= i < len(tasks) for row in owner_sets for i in row):
        raise ConfigError("a gram belongs to a task that is not there")
    info = build(IndexInfo, {**table, "tasks": tasks})
    grams, owners = {}, {}
    for length in range(SHORTEST, GRAM + 1):
        if f"grams_{length}.npy" not in members:
            continue
        grams[length] = _array(members[f"grams_{length}.npy"], "<u8")
        owners[length] = _array(members[f"owners_{length}.npy"], "<u4")
        ascending = (grams[length][1:] > grams[length][:-1]).all()
        if not ascending or len(grams[length]) != len(owners[length]):
            raise ConfigError(f"its grams of {length} tokens are not in order")
        if owners[length].size and int(owners[length].max()) >= len(owner_sets):
            raise ConfigError("a gram belongs to tasks that are not there")
    return info, IndexArrays(grams, owners, owner_sets)


def _metadata(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_METADATA_BYTES:
        raise ConfigError("its description is too large")
    try:
        table = json.loads(data)
    except RecursionError:
        raise ConfigError("its description is nested too deeply") from None
    if not isinstance(table, dict):
        raise ConfigError("its description is no table")
    made = (table.pop("version", None), table.pop("gram", None), table.pop("shortest", None))
    if made != (VERSION, GRAM, SHORTEST):
        raise ConfigError(f"version, gram and shortest are {made}, not {VERSION, GRAM, SHORTEST}")
    return table


def _array(data: bytes, dtype: str) -> Any:
    """A one-dimensional array whose header is checked before anything of its size is made."""
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ConfigError("an array has an unknown format")
    shape, _, found = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 1 or found != np.dtype(dtype) or found.str != dtype:
        raise ConfigError(f"an array is {found} of shape {shape}")
    if shape[0] * found.itemsize != len(data) - file.tell():
        raise ConfigError(f"an array of {shape[0]:,} numbers has {len(data):,} bytes")
    array = np.frombuffer(data, dtype=found, offset=file.tell())
    return array.astype(found.newbyteorder("="), copy=False)
