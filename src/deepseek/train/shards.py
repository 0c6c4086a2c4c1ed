"""Checkpoints that several ranks write together: a folder of safetensors files, one a rank.

`torch.distributed.checkpoint` plans who writes and who reads which rows, so that other numbers of
ranks can go on. Nothing in the folder is pickled. The folder gets its name when it is whole.
"""

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader as Reader
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter as Writer
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from deepseek.core.errors import CheckpointError
from deepseek.train.pieces import Piece, n_bytes
from deepseek.weights.cache import require_free, write_atomically
from deepseek.weights.mapping import MappedFile
from deepseek.weights.safetensors import read_entries, read_json

FACTS = "facts.json"
_HINT = "remove it: the run goes on from the checkpoint before it"
_FILE = re.compile(r"[\w-]+\.safetensors")


class ShardFolder:
    """A checkpoint of several ranks."""

    def __init__(self, path: Path) -> None:
        """Look at it; every file must be there, whole and well formed.

        Raises:
            CheckpointError: It is damaged.
        """
        self.path = path
        table = read_json(path / FACTS)
        files, facts = table.get("files"), table.get("facts")
        if not isinstance(files, dict) or not isinstance(facts, dict) or not files:
            raise CheckpointError(f"{path} is no checkpoint of a run", _HINT)
        self.facts: dict[str, Any] = facts
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.names: set[str] = set()
        for name, size in files.items():
            file = MappedFile(path / name) if _FILE.fullmatch(name) else None
            if file is None or file.size != size:
                raise CheckpointError(f"{path / name} is not what was written", _HINT)
            self.names.update(read_entries(file))
        if {file.name for file in path.glob("*.safetensors")} != set(files):
            raise CheckpointError(f"{path} has other files than were written", _HINT)

    def read(self, pieces: Mapping[str, Piece]) -> None:
        """Fill pieces. Of a sharded model all ranks must call it, with the same names.

        Raises:
            CheckpointError: One is missing or of another shape.
        """
        wanted = {name: _Stored(piece) for name, piece in pieces.items()}
        alone = all(piece.is_whole for piece in pieces.values())
        try:
            with warnings.catch_warnings():
                # Without a group torch warns that it has none.
                warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
                load(
                    dict(wanted),
                    storage_reader=Reader(str(self.path)),
                    planner=_LoadPlanner(),
                    no_dist=alone or not dist.is_initialized(),
                )
        except (Exception, CheckpointException) as error:  # of many kinds, on all ranks the same
            raise CheckpointError(
                f"{self.path} does not fit the model: {_reason(error)}"[:600],
                "resume with the settings the run was begun with",
            ) from None


def write_folder(path: Path, pieces: Mapping[str, Piece], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint together; all ranks call it, and all fail if one does.

    Raises:
        CheckpointError: It cannot be written; nothing has its name then.
    """
    partial = path.with_name(f".{path.name}.partial")
    is_first = dist.get_rank() == 0
    failed: BaseException | None = None
    try:
        require_free(path.parent, n_bytes(pieces) + (1 << 20))
        if is_first:
            shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
            partial.mkdir(parents=True)
    except OSError as error:
        failed = error
    if not _any(failed):
        try:
            save(
                {name: _Stored(piece) for name, piece in pieces.items()},
                storage_writer=Writer(str(partial), save_distributed=True),
                planner=_SavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
            )
            if is_first:
                _finish(partial, path, facts)
        except (Exception, CheckpointException) as error:  # torch wraps what other ranks raised
            failed = error
        dist.barrier()
    if _any(failed):
        if is_first:
            shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"cannot write {path}: {_reason(failed)}"[:600],
            "earlier checkpoints are whole: free some space and go on with --resume",
        )


def remove_folder(path: Path) -> None:
    """Remove one so that no half of it is ever found under its name."""
    dying = path.with_name(f".{path.name}.removed")
    shutil.rmtree(dying, ignore_errors=True)
    os.replace(path, dying)
    shutil.rmtree(dying, ignore_errors=True)


def _finish(partial: Path, path: Path, facts: Mapping[str, Any]) -> None:
    files = {file.name: file.stat().st_size for file in sorted(partial.glob("*.safetensors"))}
    table = {"files": files, "facts": facts}
    write_atomically(partial / FACTS, json.dumps(table, sort_keys=True, allow_nan=False).encode())
    for place in (partial / FACTS, partial):
        _sync(place)
    if path.exists():  # of the run before a restart that began earlier
        remove_folder(path)
    os.replace(partial, path)
    _sync(path.parent)


def _sync(place: Path) -> None:
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _any(failed: BaseException | None) -> bool:
    told = torch.tensor(int(failed is not None))
    dist.all_reduce(told)
    return bool(told)


def _reason(error: BaseException | None) -> str:
    """What went wrong in a few words; torch keeps the errors of all ranks in a table."""
    inner = getattr(error, "failures", None)
    if inner:
        error = next(iter(inner.values()))[0]
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if error is None:
        return os.strerror(errno.EIO) + " on another rank"
    return str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)


class _Stored:
    """A piece as torch's planners see it. A single number is stored as a row of one."""

    def __init__(self, piece: Piece) -> None:
        self.shape = torch.Size(piece.shape or (1,))
        self.tensor: Tensor = piece.tensor if piece.shape else piece.tensor.view(1)
        self._first, self._is_written = piece.first, piece.is_written

    def size(self) -> torch.Size:
        return self.shape

    def chunk(self) -> ChunkStorageMetadata:
        offsets = (self._first, *[0] * (len(self.shape) - 1))
        return ChunkStorageMetadata(torch.Size(offsets), self.tensor.shape)

    def __create_write_items__(self, name: str, own: object) -> list[WriteItem]:
        if not self._is_written:
            return []
        chunk = self.chunk()
        properties = TensorProperties.create_from_tensor(self.tensor)
        data = TensorWriteData(chunk, properties, self.shape)
        return [WriteItem(MetadataIndex(name, chunk.offsets), WriteItemType.SHARD, None, data)]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [self.chunk()] if self.tensor.numel() else []


class _SavePlanner(DefaultSavePlanner):
    def lookup_object(self, index: MetadataIndex) -> Any:
        return self.state_dict[index.fqn].tensor.detach()


class _LoadPlanner(DefaultLoadPlanner):
    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        self.flatten_state_dict = self.flatten_sharded_tensors = False
        self.state_dict, self.metadata = state_dict, metadata
        self.original_state_dict, self.is_coordinator = state_dict, is_coordinator

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        found: Tensor = self.state_dict[index.fqn].tensor
        return found
