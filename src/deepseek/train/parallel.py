"""Who has which weights: whole ones on every rank, rows of them (FSDP2), experts shared out."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from deepseek.core.errors import ConfigError
from deepseek.model.moe.experts import NeuronExperts
from deepseek.model.moe.load import mixtures_of
from deepseek.model.transformer import Transformer
from deepseek.ops.moe.exchange import Exchange, shared_out
from deepseek.train.ranks import Ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelSettings:
    """How several ranks train one model. Results and checkpoints do not depend on it."""

    data: Literal["whole", "sharded"] = "whole"
    """Every rank has its own part of a step's windows. `whole`: and all weights; `sharded`: and
    some rows of each weight, of its gradient and of the optimiser's state."""
    expert: int = 1
    """Ranks that share the experts of a mixture: each has some, and tokens go to them."""
    tensor: int = 1
    pipeline: int = 1
    context: int = 1

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline", "context"):
            if getattr(self, name) != 1:
                raise ConfigError(
                    f"parallel.{name} is {getattr(self, name)}: there is no such parallelism yet",
                    'use data = "sharded", and expert for a mixture',
                )
        if self.expert < 1:
            raise ConfigError(f"parallel.expert is {self.expert}", "use 1 or more")
        if self.expert > 1 and self.data != "sharded":
            raise ConfigError(
                "parallel.expert shares experts out, and parallel.data is whole",
                'add data = "sharded"',
            )


def distribute(
    model: Transformer, settings: ParallelSettings, ranks: Ranks, device: torch.device
) -> None:
    """Leave this rank its share of a model that all ranks have whole.

    Raises:
        ConfigError: The settings do not fit the model or the number of ranks.
    """
    if settings.data == "whole" or ranks.size == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # Always by an explicit mesh: without one torch takes GPUs where there are some.
    every = init_device_mesh(device.type, (ranks.size,), mesh_dim_names=("data",))
    if settings.expert > 1:
        shared = _shareable(model, settings.expert, ranks)
        shape = (ranks.size // settings.expert, settings.expert)
        both = init_device_mesh(device.type, shape, mesh_dim_names=("copy", "expert"))
        group, place = both.get_group("expert"), both.get_local_rank("expert")
        copies = both["copy"]
        for experts in shared:
            bounds = shared_out(experts.sizes, settings.expert)
            experts.share_out(Exchange(group, bounds, place))
            fully_shard(experts, mesh=copies)
    for block in model.blocks:
        fully_shard(block, mesh=every)
    fully_shard(model, mesh=every)
    register_fsdp_forward_method(model, "hidden_states")
    _sum_gradients(model)


def _shareable(model: Transformer, n_ranks: int, ranks: Ranks) -> list[NeuronExperts]:
    if ranks.size % n_ranks:
        raise ConfigError(
            f"parallel.expert is {n_ranks} for {ranks.size} processes", "use a divisor of them"
        )
    layers = mixtures_of(model)
    found = [layer.experts for layer in layers if isinstance(layer.experts, NeuronExperts)]
    if len(found) < len(layers):
        raise ConfigError(
            "experts of form low_rank are not shared out: what they add to is larger than they are",
            'use parallel.expert = 1; data = "sharded" shares their rows',
        )
    if len(found[0].sizes) < n_ranks:
        raise ConfigError(
            f"parallel.expert is {n_ranks}, and a layer has {len(found[0].sizes)} experts",
            "use a number up to that",
        )
    return found


def _sum_gradients(model: nn.Module) -> None:
    """Let gradients be sums over ranks and no means: the loss is divided by all labels already."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
