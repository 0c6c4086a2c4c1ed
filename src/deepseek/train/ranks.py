"""Several processes that train one model, each on its part of a step's windows.

Every rank draws all windows and keeps its share, so that the state is the same everywhere and
does not depend on how many ranks there are. Gradients are summed once a step. Who has which
weights, `parallel` says.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from deepseek.core.errors import ConfigError
from deepseek.train.pieces import is_sharded


@dataclass(frozen=True, slots=True)
class Ranks:
    """Who this process is among those that train together; alone by default."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> "Ranks":
        """Meet the other processes that `torchrun` started, if it did.

        Raises:
            ConfigError: They cannot be reached.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            try:
                # Flags and checkpoints' plans are on the CPU also where models are not.
                dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
            except (RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"cannot join the other processes: {error}", "start with torchrun"
                ) from None
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum gradients over the ranks; where only some have one, all get one.

        Those of a sharded model were summed on their way.
        """
        if self.size == 1 or is_sharded(model):
            return
        for parameter in model.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)

    def any(self, flag: bool) -> bool:
        """Whether it is true of any rank."""
        if self.size == 1:
            return flag
        told = torch.tensor(int(flag))
        dist.all_reduce(told)
        return bool(told)

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """End the group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()
