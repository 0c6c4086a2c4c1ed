"""Checkpoints of a run: everything the next step depends on, whole or not at all.

One rank writes a file; ranks that share the weights write a folder together (`shards`). Either is
read by any number of ranks.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deepseek.core.errors import CheckpointError
from deepseek.train.optimiser import Optimiser
from deepseek.train.pieces import Piece, is_sharded, pieces_of
from deepseek.weights.cache import require_free
from deepseek.weights.mapping import MappedFile
from deepseek.weights.safetensors import Entry, read_entries

if TYPE_CHECKING:
    from deepseek.train.shards import ShardFolder

FACTS, RNG, MODEL, OPTIMISER = "facts", "random", "model.", "optimiser."
_NAME = re.compile(r"step-(\d{8})(\.safetensors)?")
_HINT = "remove it: the run goes on from the checkpoint before it"


class Checkpoints:
    """The checkpoints of a run in a folder, the last few of them kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep = folder, keep

    def steps(self) -> list[int]:
        """Steps after which there is one, in order."""
        names = self.folder.glob("step-*") if self.folder.is_dir() else ()
        return sorted({int(match[1]) for file in names if (match := _NAME.fullmatch(file.name))})

    def path(self, step: int, *, is_folder: bool = False) -> Path:
        """Where the one after so many steps is: a file, or a folder of several ranks."""
        folder = self.folder / f"step-{step:08d}"
        return folder if is_folder else folder.with_name(f"{folder.name}.safetensors")

    def save(
        self, step: int, model: nn.Module, optimiser: Optimiser, facts: Mapping[str, Any]
    ) -> Path:
        """Write one, then remove the oldest beyond those to keep.

        Equal states give equal bytes. Of a sharded model all ranks must call it.

        Raises:
            CheckpointError: It cannot be written; those before it stay.
        """
        sharded = is_sharded(model)
        is_first = not sharded or torch.distributed.get_rank() == 0
        pieces = {f"{MODEL}{name}": piece for name, piece in pieces_of(model).items()}
        pieces |= {f"{OPTIMISER}{name}": piece for name, piece in optimiser.pieces().items()}
        pieces[RNG] = Piece.whole(torch.get_rng_state(), is_written=is_first)
        path = self.path(step, is_folder=sharded)
        if sharded:
            from deepseek.train.shards import write_folder

            write_folder(path, pieces, facts)
        else:
            text = json.dumps(facts, sort_keys=True, allow_nan=False).encode()
            tensors = {name: piece.tensor for name, piece in pieces.items()}
            tensors[FACTS] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
            _write(path, tensors)
        if is_first:
            self._remove(path, step)
        return path

    def _remove(self, written: Path, step: int) -> None:
        """What is too old, and what the same step had in the other form."""
        old = {
            self.path(n, is_folder=form)
            for n in self.steps()[: -self._keep]
            for form in (False, True)
        }
        old |= {self.path(step, is_folder=form) for form in (False, True)} - {written}
        for path in sorted(old):
            if path.is_dir():
                from deepseek.train.shards import remove_folder

                remove_folder(path)
            else:
                path.unlink(missing_ok=True)

    def load(self, step: int) -> "SavedState":
        """Open one.

        Raises:
            CheckpointError: It is damaged.
        """
        file = self.path(step)
        return SavedState(file if file.exists() else self.path(step, is_folder=True))

    @torch.no_grad()
    def average(self, steps: Sequence[int], model: nn.Module) -> None:
        """Put the mean of some checkpoints' weights into a model.

        Raises:
            CheckpointError: One is damaged or of another shape.
        """
        saved = [self.load(step) for step in steps]
        own = {f"{MODEL}{name}": piece for name, piece in pieces_of(model).items()}
        totals = {name: torch.zeros_like(p.tensor, dtype=torch.float64) for name, p in own.items()}
        for one in saved:
            found = {name: piece.of(torch.empty_like(piece.tensor)) for name, piece in own.items()}
            one.read(found)
            for name, piece in found.items():
                totals[name] += piece.tensor
        for name, piece in own.items():
            piece.fill(totals[name] / len(saved))


class SavedState:
    """One checkpoint."""

    def __init__(self, path: Path) -> None:
        """Open and check it.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        self.path = path
        self._store = _open(path)
        self.facts: dict[str, Any] = self._store.facts

    def tensor(self, name: str, like: Tensor) -> Tensor:
        """One whole tensor as it stands in the file.

        Raises:
            CheckpointError: It is missing or of another shape.
        """
        found = torch.empty_like(like)
        self.read({name: Piece.whole(found)})
        return found

    def read(self, pieces: Mapping[str, Piece]) -> None:
        """Fill pieces.

        Raises:
            CheckpointError: One is missing or of another shape.
        """
        self._store.read(pieces)

    @torch.no_grad()
    def restore(self, model: nn.Module, optimiser: Optimiser) -> None:
        """Put weights, the optimiser's state and that of random numbers back.

        Raises:
            CheckpointError: Something is missing or of another shape.
        """
        names, start = self._store.names, len(OPTIMISER)
        state = optimiser.blank({name[start:] for name in names if name.startswith(OPTIMISER)})
        pieces = {f"{MODEL}{name}": piece for name, piece in pieces_of(model).items()}
        pieces |= {f"{OPTIMISER}{name}": piece for name, piece in state.items()}
        random = torch.get_rng_state()
        if RNG in names:
            pieces[RNG] = Piece.whole(random)
        self.read(pieces)
        optimiser.refresh()
        torch.set_rng_state(random)


def _open(path: Path) -> "_File | ShardFolder":
    if not path.is_dir():
        return _File(path)
    from deepseek.train.shards import ShardFolder  # slow to import

    return ShardFolder(path)


class _File:
    """A checkpoint of one rank, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, Entry] = read_entries(MappedFile(path))
        self.names = set(self._entries)
        try:
            self.facts: dict[str, Any] = json.loads(bytes(self._entries[FACTS].view()))
        except (KeyError, ValueError, RecursionError):
            raise CheckpointError(f"{path} is no checkpoint of a run", _HINT) from None

    def read(self, pieces: Mapping[str, Piece]) -> None:
        for name, piece in pieces.items():
            entry = self._entries.get(name)
            if entry is None or entry.shape != piece.shape:
                found = "missing" if entry is None else f"of shape {list(entry.shape)}"
                raise CheckpointError(
                    f"{name} in {self.path} is {found}, the model's is {list(piece.shape)}",
                    "resume with the settings the run was begun with",
                )
            piece.fill(piece.cut(entry.view()))


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # left by a run that was killed
        require_free(path.parent, sum(t.nbytes for t in tensors.values()) + (1 << 20))
        save_file({name: t.contiguous().cpu() for name, t in tensors.items()}, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write {path}: {error}",
            "earlier checkpoints are whole: free some space and go on with --resume",
        ) from None


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut, where the system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
