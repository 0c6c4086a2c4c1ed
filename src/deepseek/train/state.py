"""Checkpoints of a run: everything the next step depends on in one file, whole or not at all."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepseek.core.errors import CheckpointError
from deepseek.train.optimiser import Optimiser
from deepseek.weights.cache import require_free
from deepseek.weights.mapping import MappedFile
from deepseek.weights.safetensors import Entry, read_entries

FACTS, RNG, MODEL, OPTIMISER = "facts", "random", "model.", "optimiser."
_NAME = re.compile(r"step-(\d{8})\.safetensors")
_HINT = "remove it: the run goes on from the checkpoint before it"


class Checkpoints:
    """The checkpoints of a run in a folder, the last few of them kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep = folder, keep

    def steps(self) -> list[int]:
        """Steps after which there is one, in order."""
        names = self.folder.glob("step-*.safetensors") if self.folder.is_dir() else ()
        return sorted(int(match[1]) for file in names if (match := _NAME.fullmatch(file.name)))

    def path(self, step: int) -> Path:
        """Where the one after so many steps is."""
        return self.folder / f"step-{step:08d}.safetensors"

    def save(
        self, step: int, model: nn.Module, optimiser: Optimiser, facts: Mapping[str, Any]
    ) -> Path:
        """Write one, then remove the oldest beyond those to keep.

        Equal states give equal bytes.

        Raises:
            CheckpointError: It cannot be written; those before it stay.
        """
        tensors = {f"{MODEL}{name}": p.detach() for name, p in _weights(model).items()}
        tensors |= {f"{OPTIMISER}{name}": t for name, t in optimiser.tensors().items()}
        tensors[RNG] = torch.get_rng_state()
        text = json.dumps(facts, sort_keys=True, allow_nan=False).encode()
        tensors[FACTS] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        _write(self.path(step), tensors)
        for old in self.steps()[: -self._keep]:
            self.path(old).unlink(missing_ok=True)
        return self.path(step)

    def load(self, step: int) -> "SavedState":
        """Open one.

        Raises:
            CheckpointError: It is damaged.
        """
        return SavedState(self.path(step))

    @torch.no_grad()
    def average(self, steps: Sequence[int], model: nn.Module) -> None:
        """Put the mean of some checkpoints' weights into a model.

        Raises:
            CheckpointError: One is damaged or of another shape.
        """
        saved = [self.load(step) for step in steps]
        for name, own in _weights(model).items():
            total = torch.zeros(own.shape, dtype=torch.float64)
            for one in saved:
                total += one.tensor(f"{MODEL}{name}", own)
            own.copy_(total / len(saved))


class SavedState:
    """One checkpoint, memory-mapped."""

    def __init__(self, path: Path) -> None:
        """Open and check it.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        self.path = path
        self._entries: dict[str, Entry] = read_entries(MappedFile(path))
        try:
            self.facts: dict[str, Any] = json.loads(bytes(self._entries[FACTS].view()))
        except (KeyError, ValueError, RecursionError):
            raise CheckpointError(f"{path} is no checkpoint of a run", _HINT) from None

    def tensor(self, name: str, like: Tensor) -> Tensor:
        """One tensor as it stands in the file.

        Raises:
            CheckpointError: It is missing or of another shape.
        """
        entry = self._entries.get(name)
        if entry is None or entry.shape != tuple(like.shape):
            found = "missing" if entry is None else f"of shape {list(entry.shape)}"
            raise CheckpointError(
                f"{name} in {self.path} is {found}, the model's is {list(like.shape)}",
                "resume with the settings the run was begun with",
            )
        return entry.view()

    @torch.no_grad()
    def restore(self, model: nn.Module, optimiser: Optimiser) -> None:
        """Put weights, the optimiser's state and that of random numbers back.

        Raises:
            CheckpointError: Something is missing or of another shape.
        """
        for name, own in _weights(model).items():
            own.copy_(self.tensor(f"{MODEL}{name}", own))
        optimiser.resume(
            {
                name.removeprefix(OPTIMISER): entry.view()
                for name, entry in self._entries.items()
                if name.startswith(OPTIMISER)
            }
        )
        if RNG in self._entries:
            torch.set_rng_state(self._entries[RNG].view().clone())


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and buffers that are part of the state."""
    found = dict(model.named_parameters())
    buffers = {name for name, _ in model.named_buffers()}
    state = model.state_dict(keep_vars=True)
    return found | {name: state[name] for name in state if name in buffers}


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
