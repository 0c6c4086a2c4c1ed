"""AdamW, and Muon for matrices, over parameters that may change in part only.

Of a parameter of which only some rows may change, the optimiser sees a copy of these rows: decay
and momentum then cannot reach the others. Of one that ranks share, it sees the rows that are here.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor, nn

from deepseek.core.errors import ConfigError
from deepseek.model.moe.layout import stacked_matrices
from deepseek.train.muon import Matrix, Muon
from deepseek.train.pieces import Piece, is_sharded, local, pieces_of
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
    """The parameter itself, a copy of its rows, or the rows that are here."""
    place: Piece
    """Where the value stands in a checkpoint's tensors."""

    def take_gradient(self) -> None:
        gradient = self.parameter.grad
        if gradient is not None and self.rows is not None:
            gradient = gradient[self.rows]
        if self.value is not self.parameter:
            self.value.grad = None if gradient is None else local(gradient)

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
        self._is_sharded = is_sharded(model)
        self._parts = _parts(model, mask, self._is_sharded)
        looked_up, stacked = _looked_up(model), stacked_matrices(model)
        groups: dict[str, list[nn.Parameter]] = {"matrix": [], "other": []}
        matrices = []
        for part in self._parts:
            is_matrix = part.parameter.dim() >= 2 and id(part.parameter) not in looked_up
            if is_matrix and settings.kind == "muon" and not part.name.startswith("head."):
                sizes = _sizes(stacked.get(part.name), part.rows)
                shared = part.parameter if self._is_sharded else None
                matrices.append(Matrix(part.value, sizes, shared))
            else:
                groups["matrix" if is_matrix else "other"].append(part.value)
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
        self._muon = Muon(matrices, momentum=settings.momentum, decay=settings.decay)

    def values(self) -> Iterator[nn.Parameter]:
        """Everything that may change, rows as parameters of their own."""
        return (part.value for part in self._parts)

    def take_gradients(self) -> float:
        """Collect the gradients of what may change, and return their norm, that of all ranks'."""
        for part in self._parts:
            part.take_gradient()
        gradients = [value.grad for value in self.values() if value.grad is not None]
        if not gradients:
            return 0.0
        norm = torch.stack([torch.linalg.vector_norm(g.float()) for g in gradients]).norm()
        if self._is_sharded:  # every number is on one rank only
            norm = norm.double().square()
            dist.all_reduce(norm)
            norm = norm.sqrt()
        return float(norm)

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

    def pieces(self) -> dict[str, Piece]:
        """The state, by kind and parameter."""
        return {
            f"{key}.{part.name}": part.place.of(state[key])
            for part in self._parts
            for state in (self._adam.state.get(part.value) or self._muon.state.get(part.value, {}),)
            for key in state
        }

    def blank(self, names: Set[str]) -> dict[str, Piece]:
        """Begin a state of such names, for saved values to be put into its pieces."""
        for part in self._parts:
            for keys, states in ((ADAM_STATE, self._adam.state), (MUON_STATE, self._muon.state)):
                states.pop(part.value, None)
                if not all(f"{key}.{part.name}" in names for key in keys):
                    continue  # it had no gradient yet
                states[part.value] = {
                    key: torch.zeros(()) if key == "step" else torch.zeros_like(part.value)
                    for key in keys
                }
        return self.pieces()

    def refresh(self) -> None:
        """Copy rows anew: parameters were changed by others."""
        for part in self._parts:
            if part.rows is not None:
                part.value.data.copy_(part.parameter.detach()[part.rows])


def _parts(model: nn.Module, mask: Mask, sharded: bool) -> list[_Part]:
    found = []
    pieces = pieces_of(model)  # first: it puts sharded parameters in their places
    for name, parameter in model.named_parameters():
        if name not in mask.parts:
            continue
        rows, value, place = mask.parts[name], parameter, pieces[name]
        if rows is not None:
            rows = rows.to(parameter.device)
            value = nn.Parameter(parameter.detach()[rows].clone())
            place = Piece.whole(value)
        elif sharded:
            value = nn.Parameter(place.tensor)
        found.append(_Part(name, parameter, rows, value, place))
    return found


def _sizes(stacked: list[int] | None, rows: Int[Tensor, " R"] | None) -> list[int] | None:
    """Rows of each matrix among some rows of a stack of them."""
    if stacked is None or rows is None:
        return stacked
    ends = torch.tensor(stacked).cumsum(0)
    numbers = torch.bucketize(rows.cpu(), ends, right=True)
    return [count for count in numbers.bincount().tolist() if count]


def _looked_up(model: nn.Module) -> set[int]:
    """Tables whose rows are looked up: parameters of modules that call themselves embeddings."""
    return {
        id(parameter)
        for module in model.modules()
        if "embedding" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)
    }
