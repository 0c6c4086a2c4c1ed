"""How a dense feed-forward layer becomes a mixture, in each form.

Axes: T tokens of the sample, D width, F neurons.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from deepseek.adapt.clusters import kmeans, sized_clusters
from deepseek.model.feed_forward import FeedForward
from deepseek.model.linear import Linear
from deepseek.model.moe.config import MoEConfig
from deepseek.model.moe.gate import Gate, Routing
from deepseek.model.moe.layer import LowRankMixture, MoELayer, NeuronMixture, mixture_of
from deepseek.ops.activation import swiglu

PROFILED = 2_048
"""Tokens by which neurons are compared."""
CHECKED = 256
"""Tokens by which a converted layer is compared with the dense one."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What a dense layer read of the calibration text."""

    inputs: Float[Tensor, "T D"]
    domains: Int[Tensor, " T"]


def convert(
    dense: FeedForward, moe: MoEConfig, sample: Sample | None, generator: torch.Generator
) -> MoELayer:
    """The mixture that computes what a dense layer does.

    Args:
        dense: Not packed; in form `low_rank` it becomes a part of the mixture, untouched.
        moe: Form and experts, which fit the layer.
        sample: What the gate starts by; None: its rows are random.
        generator: For all that is random.
    """
    gate_up, down = _weights(dense)
    with torch.device("meta"):
        layer = mixture_of(moe, down.shape[0], down.shape[1])
    layer.gate = Gate(moe, down.shape[0])
    slices = None
    if isinstance(layer, LowRankMixture):
        layer.dense = dense
        _start_low_rank(layer, gate_up.dtype, generator)
    elif isinstance(layer, NeuronMixture):
        slices = _cut(layer, moe, gate_up, down, sample, generator)
    _start_gate(layer.gate, sample, slices, gate_up, generator)
    return layer.eval()


@torch.no_grad()
def largest_difference(layer: MoELayer, dense: FeedForward, x: Float[Tensor, "T D"]) -> float:
    """Between what a mixture gives for some inputs and what the dense layer gives, as a share of
    the largest number that the dense layer gives: some are in the thousands.

    Slices are all taken, since only together they are the dense layer.
    """
    rows = x[None, :CHECKED]
    moe = layer.gate.config
    if moe.form == "slices":
        layer.gate.config = replace(moe, n_active_experts=moe.n_experts)
    try:
        routing = Routing(torch.zeros(rows.shape[1], dtype=torch.int64))
        found = layer(rows, routing)
    finally:
        layer.gate.config = moe
        layer.take_counts()
    wanted = dense(rows).float()
    return float((found.float() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-9))


def _weights(dense: FeedForward) -> tuple[Tensor, Tensor]:
    assert dense.gate_up.weight is not None, "a packed layer cannot be converted"
    assert dense.down.weight is not None
    return dense.gate_up.weight.detach(), dense.down.weight.detach()


def _start_low_rank(layer: LowRankMixture, dtype: torch.dtype, generator: torch.Generator) -> None:
    """As adapters begin: `a` uniform up to 1 / sqrt(inputs), `b` zero."""
    for name, meta in list(layer.experts.named_parameters()):
        values = torch.zeros(meta.shape)
        if name.endswith("_a"):
            bound = meta.shape[1] ** -0.5
            values.uniform_(-bound, bound, generator=generator)
        setattr(layer.experts, name, nn.Parameter(values.to(dtype)))


def _cut(
    layer: NeuronMixture,
    moe: MoEConfig,
    gate_up: Tensor,
    down: Tensor,
    sample: Sample | None,
    generator: torch.Generator,
) -> list[Tensor]:
    """Give out a dense layer's neurons; returns those of each expert."""
    if moe.form == "slices":
        shared, slices = _sorted_neurons(moe, gate_up, sample, generator)
        layer.scale = nn.Parameter(torch.zeros(moe.n_experts, dtype=gate_up.dtype))
        if layer.dense is not None:
            _set(layer.dense.gate_up, _rows(gate_up, shared))
            _set(layer.dense.down, down[:, shared])
    else:
        parts = layer.gate.part_of.tolist()
        width = moe.sizes[0]
        slices = [torch.arange(part * width, (part + 1) * width) for part in parts]
    layer.experts.gate_up = nn.Parameter(torch.cat([_rows(gate_up, own) for own in slices]))
    layer.experts.down = nn.Parameter(torch.cat([down[:, own].T for own in slices]))
    return slices


def _sorted_neurons(
    moe: MoEConfig, gate_up: Tensor, sample: Sample | None, generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """Neurons that most tokens use, and the others in clusters of those that fire together."""
    n_neurons = gate_up.shape[0] // 2
    if sample is None:
        order = torch.randperm(n_neurons, generator=generator)
        return order[: moe.shared], list(torch.split(order[moe.shared :], list(moe.sizes)))
    activity = _activity(gate_up, sample)
    order = activity.mean(0).argsort(descending=True, stable=True)
    shared, others = order[: moe.shared].sort().values, order[moe.shared :].sort().values
    profiles = activity[:, others].T
    profiles = profiles / profiles.norm(dim=1, keepdim=True).clamp(min=1e-9)
    owner = sized_clusters(profiles, moe.sizes, generator)
    return shared, [others[owner == expert] for expert in range(moe.n_experts)]


def _activity(gate_up: Tensor, sample: Sample) -> Float[Tensor, "T F"]:
    """How strongly neurons fire for tokens that are spread over the sample."""
    return swiglu(_profiled(sample).to(gate_up.dtype) @ gate_up.T).abs().float()


def _profiled(sample: Sample) -> Float[Tensor, "T D"]:
    step = max(1, len(sample.inputs) // PROFILED)
    return sample.inputs[::step][:PROFILED]


@torch.no_grad()
def _start_gate(
    gate: Gate,
    sample: Sample | None,
    slices: list[Tensor] | None,
    gate_up: Tensor,
    generator: torch.Generator,
) -> None:
    """Rows that tell the sample's tokens apart, and biases that balance it."""
    config, width = gate.config, gate.weight.shape[1]
    if sample is None:
        gate.weight.normal_(0.0, width**-0.5, generator=generator)
        return
    x = sample.inputs.float()
    mean = x.mean(0)
    if config.form == "slices" and slices is not None:
        rows = _rows_by_activity(gate_up, sample, slices)
    else:
        rows = _rows_by_clusters(gate, x - mean, sample.domains, generator)
    # Without the part along the mean, which all tokens have, and of unit spread: else sigmoids
    # would be near 0 or 1 for all.
    rows = rows - (rows @ mean)[:, None] * mean / mean.square().sum().clamp(min=1e-9)
    spread = (x @ rows.T).std(0, correction=0).clamp(min=1e-9)
    gate.weight.copy_(rows / spread[:, None])
    gate.warm_start(x, sample.domains)


def _rows_by_clusters(
    gate: Gate, x: Float[Tensor, "T D"], domains: Int[Tensor, " T"], generator: torch.Generator
) -> Float[Tensor, "E D"]:
    """Centres of each group's own tokens (of all, if it has none), for each part of a layer."""
    config = gate.config
    rows = torch.zeros(config.n_experts, x.shape[1])
    for number, (first, end) in enumerate(config.bounds):
        own = x[domains == number]
        points = own if len(own) and not config.groups[number].always else x
        for part in range(config.parts):
            places = range(first + part, end, config.parts)
            rows[list(places)] = kmeans(points, len(places), generator)
    return rows


def _rows_by_activity(
    gate_up: Tensor, sample: Sample, slices: list[Tensor]
) -> Float[Tensor, "E D"]:
    """Directions in which slices fire more than they do on average."""
    x = _profiled(sample).float()
    activity = _activity(gate_up, sample)
    energy = torch.stack([activity[:, own].mean(1) for own in slices])
    return (energy - energy.mean(1, keepdim=True)) @ (x - x.mean(0)) / len(x)


def _rows(gate_up: Tensor, neurons: Tensor) -> Tensor:
    """Gate rows of some neurons, and their up rows below."""
    gate, up = gate_up.chunk(2)
    return torch.cat((gate[neurons], up[neurons]))


def _set(linear: Linear, weight: Tensor) -> None:
    linear.weight = nn.Parameter(weight.contiguous())
