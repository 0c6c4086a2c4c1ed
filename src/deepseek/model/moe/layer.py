"""Mixtures of experts as feed-forward layers of a block."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor, nn

from deepseek.model.adapter import Additions
from deepseek.model.feed_forward import FeedForward
from deepseek.model.moe.config import MoEConfig
from deepseek.model.moe.experts import LowRankExperts, NeuronExperts
from deepseek.model.moe.gate import Gate, Routing
from deepseek.ops.activation import swiglu
from deepseek.ops.moe.gate import Choice
from deepseek.ops.native_model import Matrix


class MoELayer(nn.Module):
    """What all forms have: a gate, stacked experts, and what a trainer asks for.

    A trainer adds `auxiliary_loss` to its loss after each pass; once an optimiser step it calls
    `take_counts`, adds them up over micro-batches and ranks, and gives them to `update_balance`.
    """

    gate: Gate
    experts: LowRankExperts | NeuronExperts
    dense: FeedForward | None
    """What computes for all tokens."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of all experts."""
        return self.gate.config.sizes

    @property
    def n_slots(self) -> int:
        """Experts that a token may have."""
        return self.gate.config.n_active_experts

    def auxiliary_loss(self) -> Float[Tensor, ""] | None:
        """Of the last pass; None in eval, or if no such loss is wanted."""
        return self.gate.loss if self.training else None

    def take_counts(self) -> Num[Tensor, " N"]:
        """Tokens that went to each expert since the last call; with a budget, slots left empty
        come last."""
        counts = self.gate.load.sum(0)
        self.gate.load.zero_()
        return counts if self.gate.config.budget is not None else counts[:-1]

    def take_load(self) -> Num[Tensor, "N E"]:
        """Tokens by domain (the last row: without a label) and expert since the last call."""
        load = self.gate.load[:, :-1].clone()
        self.gate.load.zero_()
        return load

    def update_balance(self, counts: Num[Tensor, " N"], rate: float) -> None:
        """Move biases by `rate` against the loads of one optimiser step, as `take_counts` gave
        them."""
        self.gate.update_balance(counts, rate)


class LowRankMixture(MoELayer):
    """A dense layer, untouched, and experts of low rank that add to its three products.

    As long as all `b` matrices are 0 it computes what the dense layer does, bit for bit.
    """

    experts: LowRankExperts
    dense: FeedForward

    def __init__(self, config: MoEConfig, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate = Gate(config, d_model)
        self.dense = FeedForward(d_model, d_ff)
        self.experts = LowRankExperts(config.sizes, d_model, d_ff, config.scale)

    def forward(
        self, x: Float[Tensor, "B T D"], routing: Routing, additions: Additions | None = None
    ) -> Float[Tensor, "B T D"]:
        """Transform each position by itself; adapters may add to the products."""
        rows = x.flatten(0, 1)
        gate_up: Tensor = self.dense.gate_up(x)
        experts = self.experts.route(self.gate, routing, rows, gate_up.flatten(0, 1))
        if additions is not None:
            gate_up = additions.add(x, gate_up, Matrix.GATE, Matrix.UP)
        inner = swiglu(gate_up)
        down: Tensor = self.dense.down(inner)
        experts.add_down(inner.flatten(0, 1), down.flatten(0, 1))
        return down if additions is None else additions.add(inner, down, Matrix.DOWN)


class NeuronMixture(MoELayer):
    """Routed SwiGLU experts, beside neurons that always compute if there are some."""

    experts: NeuronExperts

    def __init__(self, config: MoEConfig, d_model: int) -> None:
        super().__init__()
        self.gate = Gate(config, d_model)
        self.dense = FeedForward(d_model, config.shared) if config.shared else None
        self.experts = NeuronExperts(config.sizes, d_model)
        self.scale = None
        if config.form == "slices":
            self.scale = nn.Parameter(torch.empty(config.n_experts))
            """How far scores move the weight of a slice away from 1."""

    def forward(
        self, x: Float[Tensor, "B T D"], routing: Routing, additions: Additions | None = None
    ) -> Float[Tensor, "B T D"]:
        """Transform each position by itself. Adapters never add here: `fit` refuses them."""
        rows = x.flatten(0, 1)
        choice = self.gate(rows, routing)
        if self.scale is not None:
            choice = self._scaled(choice, self.scale)
        routed: Tensor = self.experts(rows, choice).view_as(x)
        return routed if self.dense is None else routed + self.dense(x)

    def _scaled(self, choice: Choice, scale: Tensor) -> Choice:
        """Weights of 1 + score x scale for slices, so that all of them are the dense layer."""
        own = F.pad(scale.float(), (0, 1))[choice.experts]
        is_there = (choice.experts < len(scale)).float()
        return Choice(choice.experts, is_there + choice.weights * own)


def mixture_of(config: MoEConfig, d_model: int, d_ff: int) -> MoELayer:
    """The layer that a config describes."""
    if config.form == "low_rank":
        return LowRankMixture(config, d_model, d_ff)
    return NeuronMixture(config, d_model)
