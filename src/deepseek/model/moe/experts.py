"""The experts of a mixture, stacked: no expert is a module, so that none can go without gradients.

In every tensor an expert is a run of rows. For inference they may be packed for the kernels, as
linear layers are: a packed mixture cannot be trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from deepseek.model.moe.gate import Gate, Routing
from deepseek.ops.moe.exchange import Exchange, neurons_exchanged
from deepseek.ops.moe.gate import Choice, dense_gates
from deepseek.ops.moe.low_rank import FEW, Runs, low_rank_masked, low_rank_runs, runs_of, spread
from deepseek.ops.moe.native import NativeExperts, fits
from deepseek.ops.moe.neurons import Product, neurons


@dataclass(frozen=True, slots=True, eq=False)
class PackedLowRank:
    """Experts of low rank in the kernels' layout."""

    hidden: NativeExperts
    """Those of the gate and up products, which have one input."""
    down: NativeExperts


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
        self.packed: PackedLowRank | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The stacked tensors by name, unpacked if need be."""
        if self.packed is None:
            return {name: self.get_parameter(name) for name in self.rows}
        (gate_a, up_a), (gate_b, up_b) = self.packed.hidden.unpack()
        (down_a,), (down_b,) = self.packed.down.unpack()
        return dict(zip(self.rows, (gate_a, gate_b, up_a, up_b, down_a, down_b), strict=True))

    def pack(self) -> None:
        """Replace the tensors by packed ones where kernels gain from that."""
        t = self.tensors()
        a = t["gate_a"]
        if self.packed is not None or not fits(a.dtype, a.device, a.shape[1], t["down_a"].shape[1]):
            return
        first, second = (t["gate_a"], t["up_a"]), (t["gate_b"], t["up_b"])
        self.packed = PackedLowRank(
            hidden=NativeExperts(self.sizes, first, second, scale=self.scale, is_low_rank=True),
            down=NativeExperts(
                self.sizes, (t["down_a"],), (t["down_b"],), scale=self.scale, is_low_rank=True
            ),
        )
        for name in self.rows:
            setattr(self, name, None)

    def route(
        self,
        gate: Gate,
        routing: Routing,
        x: Float[Tensor, "T D"],
        gate_up: Float[Tensor, "T two_F"],
    ) -> "WeightedExperts":
        """Choose experts and let them add, in place, to products with the dense layer's gate and
        up matrices.

        Returns:
            What adds to the product with its last matrix.
        """
        if self.packed is not None and gate.is_native(routing):
            own = gate.native, gate.tensors
            choice = self.packed.hidden.route(own, x.contiguous(), gate_up, routing.domains)
            gate.note(choice, routing)
            return WeightedExperts(self, choice, x.dtype)
        experts = WeightedExperts(self, gate(x, routing), x.dtype)
        experts.add_hidden(x, gate_up)
        return experts


class WeightedExperts:
    """Experts of low rank with the weights that tokens gave them."""

    def __init__(self, experts: LowRankExperts, choice: Choice, dtype: torch.dtype) -> None:
        self._experts, self._choice = experts, choice
        self._weights: Tensor | None = None
        self._runs: Runs | None = None
        if experts.packed is not None:
            return
        if choice.experts.numel() <= FEW and not torch.is_grad_enabled():
            self._runs = runs_of(choice, experts.sizes, experts.scale, dtype)
        else:
            gates = dense_gates(choice, len(experts.sizes))
            self._weights = spread(gates, experts.sizes, experts.scale, dtype)

    def add_hidden(self, x: Float[Tensor, "T D"], gate_up: Float[Tensor, "T two_F"]) -> None:
        """Add in place to the products with the dense layer's gate and up matrices."""
        if self._experts.packed is not None:
            self._experts.packed.hidden.add(x, gate_up, self._choice)
            return
        d_ff = gate_up.shape[1] // 2
        self._add("gate", x, gate_up[:, :d_ff])
        self._add("up", x, gate_up[:, d_ff:])

    def add_down(self, inner: Float[Tensor, "T F"], y: Float[Tensor, "T D"]) -> None:
        """Add in place to the product with its last matrix."""
        if self._experts.packed is not None:
            self._experts.packed.down.add(inner, y, self._choice)
            return
        self._add("down", inner, y)

    def _add(self, name: str, x: Float[Tensor, "T I"], y: Float[Tensor, "T O"]) -> None:
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
        self.packed: NativeExperts | None = None
        self.product: Product = F.linear
        """How to multiply in training."""
        self.exchange: Exchange | None = None
        """Who has the other experts, if only some are here; `sizes` are those of all."""

    def tensors(self) -> dict[str, Tensor]:
        """The stacked tensors by name, unpacked if need be."""
        if self.packed is None:
            return {name: self.get_parameter(name) for name in self.rows}
        (gate_up,), (down,) = self.packed.unpack()
        return {"gate_up": gate_up, "down": down}

    def pack(self) -> None:
        """Replace the tensors by packed ones where kernels gain from that."""
        gate_up, down = self.tensors().values()
        if self.packed is not None or not fits(down.dtype, down.device, down.shape[1]):
            return
        self.packed = NativeExperts(self.sizes, (gate_up,), (down,), is_low_rank=False)
        for name in self.rows:
            setattr(self, name, None)

    def forward(self, x: Float[Tensor, "T D"], choice: Choice) -> Float[Tensor, "T D"]:
        """What the chosen ones say, times their weights."""
        if self.packed is not None:
            return self.packed.run(x, choice)
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
