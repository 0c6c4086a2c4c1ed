"""Training some groups of experts so that no bit of anything else changes.

A gradient of zero is not enough: weight decay and momentum move what has none. So frozen rows of
the tensors that all experts share are put back after each step of the optimiser.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deepseek.model.moe.layout import group_rows, is_stacked
from deepseek.model.moe.load import mixtures_of
from deepseek.model.transformer import Transformer


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What some groups own of a tensor."""

    name: str
    """In the model's `state_dict`."""
    tensor: Tensor
    """A parameter, or the gate's biases."""
    rows: tuple[slice, ...]


def shares_of(model: Transformer, groups: Iterable[str]) -> list[Share]:
    """All that belongs to some groups of experts: their rows of the stacked tensors.

    Raises:
        ConfigError: The model is dense, or there is no such group.
    """
    mixtures = mixtures_of(model)
    moe, wanted = mixtures[0].gate.config, list(groups)
    found = []
    for number, layer in enumerate(mixtures):
        prefix = f"blocks.{number}.feed_forward."
        tensors: dict[str, Tensor] = dict(layer.named_parameters())
        tensors["gate.bias"] = layer.gate.bias
        for name, tensor in tensors.items():
            if is_stacked(name):
                rows = tuple(group_rows(moe, name, wanted))
                found.append(Share(prefix + name, tensor, rows))
    return found


class Kept:
    """Rows of tensors that are put back, bit for bit."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def keep(self, tensor: Tensor, changing: tuple[slice, ...]) -> Tensor:
        """Put back all but the changing rows of a tensor from now on; returns those rows."""
        is_frozen = torch.ones(len(tensor), dtype=torch.bool, device=tensor.device)
        for own in changing:
            is_frozen[own] = False
        frozen = is_frozen.nonzero()[:, 0]
        self._kept.append((tensor, frozen, tensor.detach()[frozen].clone()))
        return frozen

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what is not trained, bit for bit."""
        for tensor, frozen, values in self._kept:
            tensor[frozen] = values


def kept_biases(model: Transformer, groups: Iterable[str]) -> Kept:
    """What balancing moves of other groups: no parameters, so that no optimiser guards them.

    Raises:
        ConfigError: The model is dense, or there is no such group.
    """
    kept = Kept()
    for share in shares_of(model, groups):
        if share.name.endswith("gate.bias"):
            kept.keep(share.tensor, share.rows)
    _keep_null_biases(kept, model)
    return kept


class Isolation(Kept):
    """Lets a trainer change some groups of experts and nothing else.

    Make it before the optimiser, give that `parameters`, and call `restore` after each of its
    steps and after balancing.
    """

    def __init__(
        self, model: Transformer, groups: Iterable[str], *, router: bool = True, more: str = ""
    ) -> None:
        """Freeze all but the rows of some groups.

        Args:
            model: A mixture.
            groups: That are trained.
            router: Whether their rows of the gate are trained as well.
            more: A word; parameters whose names contain it are trained whole, e.g. `attention`.

        Raises:
            ConfigError: The model is dense, or there is no such group.
        """
        shares = [
            share
            for share in shares_of(model, groups)
            if router or not share.name.endswith(("gate.weight", "gate.bias"))
        ]
        by_name = {share.name: share for share in shares}
        super().__init__()
        self._hooks: list[RemovableHandle] = []
        self.parameters: list[nn.Parameter] = []
        """What the optimiser is to change."""
        for name, parameter in model.named_parameters():
            share = by_name.pop(name, None)
            is_whole = bool(more) and more in name
            parameter.requires_grad_(share is not None or is_whole)
            if share is not None or is_whole:
                self.parameters.append(parameter)
            if share is not None and not is_whole:
                frozen = self.keep(parameter, share.rows)
                hook = parameter.register_hook(_zeroed(frozen))  # type: ignore[no-untyped-call]
                self._hooks.append(hook)
        for share in by_name.values():  # biases of gates, which are no parameters
            self.keep(share.tensor, share.rows)
        for layer in mixtures_of(model) if not router else ():
            self.keep(layer.gate.bias, ())
        _keep_null_biases(self, model)

    def end(self) -> None:
        """Stop masking gradients. What may be trained stays as it is."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def _keep_null_biases(kept: Kept, model: Transformer) -> None:
    """They belong to no group."""
    for layer in mixtures_of(model):
        if layer.gate.null_bias is not None:
            kept.keep(layer.gate.null_bias, ())


def _zeroed(frozen: Tensor) -> Callable[[Tensor], Tensor]:
    """Frozen rows have no part in the norm by which gradients are clipped."""
    return lambda gradient: gradient.index_fill(0, frozen, 0.0)
