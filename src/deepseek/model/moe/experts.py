"""The experts of a mixture, stacked: no expert is a module, so that none can go without gradients.

In every tensor an expert is a run of rows.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from deepseek.ops.moe.exchange import Exchange, neurons_exchanged
from deepseek.ops.moe.gate import Choice, dense_gates
from deepseek.ops.moe.low_rank import FEW, Runs, low_rank_masked, low_rank_runs, runs_of, spread
from deepseek.ops.moe.neurons import Product, neurons


class LowRankExperts(nn.Module):
    """Adds to the gate, up and down products of a dense layer."""

    rows = dict.fromkeys("gate_a gate_b up_a up_b down_a down_b".split(), 1)
    """Rows of each tensor by rank of an expert."""

    def __init__(self, sizes: Sequence[int], d_model: int, d_ff: int, scale: float) -> None:
        super().__init__()
        self.sizes, self.scale, total = tuple(sizes), scale, sum(sizes)
        self.gate_a = nn.Parameter(torch.empty(total, d_model))
        self.gate_b = nn.Parameter(torch.empty(total, d_ff))
        self.up_a = nn.Parameter(torch.empty(total, d_model))
        self.up_b = nn.Parameter(torch.empty(total, d_ff))
        self.down_a = nn.Parameter(torch.empty(total, d_ff))
        self.down_b = nn.Parameter(torch.empty(total, d_model))

    def weighted(self, choice: Choice, dtype: torch.dtype) -> "WeightedExperts":
        """What adds for one choice of experts."""
        return WeightedExperts(self, choice, dtype)


class WeightedExperts:
    """Experts of low rank with the weights that tokens gave them."""

    def __init__(self, experts: LowRankExperts, choice: Choice, dtype: torch.dtype) -> None:
        self._experts = experts
        self._weights: Tensor | None = None
        self._runs: Runs | None = None
        if choice.experts.numel() <= FEW and not torch.is_grad_enabled():
            self._runs = runs_of(choice, experts.sizes, experts.scale, dtype)
        else:
            gates = dense_gates(choice, len(experts.sizes))
            self._weights = spread(gates, experts.sizes, experts.scale, dtype)

    def add(self, name: str, x: Float[Tensor, "T I"], y: Float[Tensor, "T O"]) -> None:
        """Add in place to the product with the dense layer's `gate`, `up` or `down`."""
        experts = self._experts
        matrices = getattr(experts, f"{name}_a"), getattr(experts, f"{name}_b")
        if self._runs is not None:
            low_rank_runs(x, y, self._runs, matrices)
        elif self._weights is not None:
            low_rank_masked(x, y, self._weights, matrices)


class NeuronExperts(nn.Module):
    """SwiGLU layers of any width."""

    rows = {"gate_up": 2, "down": 1}  # noqa: RUF012
    """Rows of each tensor by neuron of an expert: gate rows, then up rows; `down` is transposed."""

    def __init__(self, sizes: Sequence[int], d_model: int) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.gate_up = nn.Parameter(torch.empty(2 * sum(sizes), d_model))
        self.down = nn.Parameter(torch.empty(sum(sizes), d_model))
        self.product: Product = F.linear
        """How to multiply in training."""
        self.exchange: Exchange | None = None
        """Who has the other experts, if only some are here; `sizes` are those of all."""

    def forward(self, x: Float[Tensor, "T D"], choice: Choice) -> Float[Tensor, "T D"]:
        """What the chosen ones say, times their weights."""
        matrices = self.gate_up, self.down
        if self.exchange is not None:
            return neurons_exchanged(x, choice, self.sizes, matrices, self.exchange, self.product)
        return neurons(x, choice, self.sizes, matrices, self.product)

    def share_out(self, exchange: Exchange) -> None:
        """Keep this rank's experts only, and ask other ranks for theirs from now on."""
        for name in self.rows:
            first, n_rows = self.rows_before(name, exchange.own.start), self.n_rows(name, exchange)
            parameter = getattr(self, name)
            own = parameter.detach()[first : first + n_rows].clone()
            setattr(self, name, nn.Parameter(own, requires_grad=parameter.requires_grad))
        self.exchange = exchange

    def rows_before(self, name: str, expert: int) -> int:
        """Rows of a tensor, with all experts, that come before an expert's."""
        return self.rows[name] * sum(self.sizes[:expert])

    def n_rows(self, name: str, exchange: Exchange) -> int:
        """Rows of a tensor that are here."""
        return self.rows[name] * sum(self.sizes[exchange.own])
