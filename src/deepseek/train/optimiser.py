"""AdamW, and Muon for matrices, over parameters that may change in part only.

Of a parameter of which only some rows may change, the optimiser sees a copy of these rows: decay
and momentum then cannot reach the others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.train.muon import Muon
from deepseek.train.subset import Mask

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
MUON_STATE = ("momentum",)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserSettings:
    """Of the optimiser; the rate is that at the top of the schedule."""

    kind: Literal["adamw", "muon"] = "adamw"
    """With `muon`, embeddings, head, norms and biases still learn by AdamW."""
    rate: float = 1e-3
    decay: float = 0.1
    """Decoupled weight decay, of matrices only; an embedding's rows are looked up, no matrix."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    momentum: float = 0.95
    """Of Muon."""

    def __post_init__(self) -> None:
        shares = (self.beta1, self.beta2, self.momentum)
        if not (0 < self.rate < 10 and 0 <= self.decay < 10 and self.epsilon > 0):
            raise ConfigError(
                f"optimiser.rate is {self.rate}, decay {self.decay}, epsilon {self.epsilon}",
                "rate and epsilon are positive, decay is 0 or more",
            )
        if not all(0 <= share < 1 for share in shares):
            raise ConfigError(
                f"optimiser.beta1 is {self.beta1}, beta2 {self.beta2}, momentum {self.momentum}",
                "they are 0 or more and below 1",
            )


@dataclass(slots=True)
class _Part:
    """What the optimiser sees of a parameter."""

    name: str
    parameter: nn.Parameter
    rows: Int[Tensor, " R"] | None
    value: nn.Parameter
    """The parameter itself, or a copy of its rows."""

    def take_gradient(self) -> None:
        if self.rows is not None:
            gradient = self.parameter.grad
            self.value.grad = None if gradient is None else gradient[self.rows]

    @torch.no_grad()
    def write_back(self) -> None:
        if self.rows is not None:
            self.parameter[self.rows] = self.value


class Optimiser:
    """Changes what a mask allows; its state is a table of tensors."""

    def __init__(self, model: nn.Module, mask: Mask, settings: OptimiserSettings) -> None:
        """Look at the model as it is now.

        Raises:
            ConfigError: The mask does not fit the model.
        """
        mask.apply(model)
        self._settings = settings
        self._parts = []
        for name, parameter in model.named_parameters():
            if name in mask.parts:
                rows = mask.parts[name]
                rows = None if rows is None else rows.to(parameter.device)
                copy = parameter if rows is None else nn.Parameter(parameter.detach()[rows].clone())
                self._parts.append(_Part(name, parameter, rows, copy))
        looked_up = _looked_up(model)
        groups: dict[str, list[nn.Parameter]] = {"matrix": [], "muon": [], "other": []}
        for part in self._parts:
            is_matrix = part.parameter.dim() >= 2 and id(part.parameter) not in looked_up
            by_muon = is_matrix and settings.kind == "muon" and not part.name.startswith("head.")
            groups["muon" if by_muon else "matrix" if is_matrix else "other"].append(part.value)
        adam = [
            {"params": groups["matrix"], "weight_decay": settings.decay},
            {"params": groups["other"], "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW(
            [group for group in adam if group["params"]] or [nn.Parameter(torch.zeros(0))],
            lr=settings.rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            fused=all(p.dtype is torch.float32 for p in self.values()),
        )
        self._muon = Muon(groups["muon"], momentum=settings.momentum, decay=settings.decay)

    def values(self) -> Iterator[nn.Parameter]:
        """Everything that may change, rows as parameters of their own."""
        return (part.value for part in self._parts)

    def take_gradients(self) -> float:
        """Collect the gradients of what may change, and return their norm."""
        for part in self._parts:
            part.take_gradient()
        gradients = [value.grad for value in self.values() if value.grad is not None]
        if not gradients:
            return 0.0
        return float(torch.stack([torch.linalg.vector_norm(g.float()) for g in gradients]).norm())

    @torch.no_grad()
    def scale_gradients(self, factor: float) -> None:
        """Multiply the collected gradients, to clip them."""
        for value in self.values():
            if value.grad is not None:
                value.grad.mul_(factor)

    def step(self, factor: float) -> None:
        """Change the parameters, with the highest rate times a factor."""
        rate = self._settings.rate * factor
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        self._muon.step(rate)
        for part in self._parts:
            part.write_back()

    def clear(self) -> None:
        """Forget the gradients."""
        for part in self._parts:
            part.parameter.grad = part.value.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The state, by kind and parameter."""
        return {
            f"{key}.{part.name}": state[key]
            for part in self._parts
            for state in (self._adam.state.get(part.value) or self._muon.state.get(part.value, {}),)
            for key in state
        }

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a saved state. The parameters must have their saved values already.

        Raises:
            CheckpointError: A tensor has another shape.
        """
        for part in self._parts:
            if part.rows is not None:
                part.value.data.copy_(part.parameter.detach()[part.rows])
            for keys, states in ((ADAM_STATE, self._adam.state), (MUON_STATE, self._muon.state)):
                found = {key: tensors.get(f"{key}.{part.name}") for key in keys}
                if any(tensor is None for tensor in found.values()):
                    continue  # it had no gradient yet
                state = {key: t.clone() for key, t in found.items() if t is not None}
                if any(t.dim() and t.shape != part.value.shape for t in state.values()):
                    raise CheckpointError(
                        f"the optimiser's state of {part.name} has another shape",
                        "resume with the settings the run was begun with",
                    )
                states[part.value] = state


def _looked_up(model: nn.Module) -> set[int]:
    """Tables whose rows are looked up: parameters of modules that call themselves embeddings."""
    return {
        id(parameter)
        for module in model.modules()
        if "embedding" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)
    }
