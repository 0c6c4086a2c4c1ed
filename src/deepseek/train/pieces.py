"""What this process keeps of a model's and an optimiser's tensors: runs of rows of whole ones."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from deepseek.model.moe.experts import NeuronExperts


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Rows of a tensor."""

    tensor: Tensor
    """The rows that are here; they are the model's own memory."""
    shape: tuple[int, ...]
    """Of the whole."""
    first: int = 0
    """Where the rows begin in the whole."""
    is_written: bool = True
    """Whether this process writes them to a checkpoint; what all have, the first one writes."""

    @classmethod
    def whole(cls, tensor: Tensor, *, is_written: bool = True) -> "Piece":
        """All rows."""
        return cls(tensor, tuple(tensor.shape), is_written=is_written)

    @property
    def is_whole(self) -> bool:
        """Whether all rows are here."""
        return tuple(self.tensor.shape) == self.shape

    def of(self, tensor: Tensor) -> "Piece":
        """The same place in another tensor, such as an optimiser's state; numbers have none."""
        if not tensor.dim():
            return Piece.whole(tensor, is_written=self.first == 0 and self.is_written)
        return replace(self, tensor=tensor)

    def cut(self, whole: Tensor) -> Tensor:
        """What belongs here of a whole tensor."""
        return whole.narrow(0, self.first, self.tensor.shape[0]) if self.shape else whole

    @torch.no_grad()
    def fill(self, values: Tensor) -> None:
        """Put values into the rows that are here."""
        self.tensor.copy_(values)


def is_sharded(model: nn.Module) -> bool:
    """Whether ranks share a model's weights (`distribute` in `parallel`)."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def pieces_of(model: nn.Module) -> dict[str, Piece]:
    """Parameters, tied ones once, and buffers that are part of the state."""
    sharded = is_sharded(model)
    if sharded:
        settle(model)
    spans = _expert_spans(model)
    found = {}
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        found[name] = _shard(value, spans.get(name)) if sharded else Piece.whole(value)
    buffers = {name for name, _ in model.named_buffers()}
    state = model.state_dict(keep_vars=True)
    is_first = not sharded or dist.get_rank() == 0
    for name in state:
        if name in buffers:
            found[name] = Piece.whole(state[name], is_written=is_first)
    return found


def settle(model: nn.Module) -> None:
    """Let a sharded model keep its own rows only: a pass without gradients leaves some whole."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(tensor: Tensor) -> Tensor:
    """The rows of a gradient that are here."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def n_bytes(pieces: Mapping[str, Piece]) -> int:
    """Bytes of the tensors that are here."""
    return sum(piece.tensor.nbytes for piece in pieces.values())


def _shard(value: Any, span: tuple[int, int] | None) -> Piece:
    """This rank's rows of a parameter of FSDP, which cuts the first axis as `torch.chunk` does.

    Args:
        value: Its distributed tensor.
        span: Of experts that are shared out: the first of their rows, and all rows there are.
    """
    before, n_rows = span or (0, value.shape[0])
    mesh = value.device_mesh
    step = -(-value.shape[0] // mesh.size())
    first = min(step * mesh.get_local_rank(), value.shape[0])
    tensor = value.to_local()
    return Piece(tensor, (n_rows, *value.shape[1:]), before + first, tensor.numel() > 0)


def _expert_spans(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Of the parameters of experts that are shared out: first row here, and rows of all ranks."""
    found = {}
    for prefix, module in model.named_modules():
        if isinstance(module, NeuronExperts) and module.exchange is not None:
            for name in module.rows:
                before = module.rows_before(name, module.exchange.own.start)
                found[f"{prefix}.{name}"] = before, module.rows_before(name, len(module.sizes))
    return found
