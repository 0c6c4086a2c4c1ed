"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): a frozen model with parts that learn.

The base's weights become tensors that are no parameters: no optimiser sees them, a run's
checkpoints do not hold them, and they may stay quantised. What learns are `down` and `up` of each
adapted layer, in float32. Layers that our model fuses keep one pair for each matrix inside, so
that an adapter has the form others know.

Experts of mixtures are adapted as stacked tensors: each expert has rows of `down` and `up` of its
own, and the sum is made once a pass, which costs as much as a few tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deepseek.core.config import suggest
from deepseek.core.errors import ConfigError
from deepseek.core.low_rank import LowRank
from deepseek.model.block import Block
from deepseek.model.checkpoint import linears_of, part_sizes
from deepseek.model.linear import Embedding, Linear
from deepseek.model.moe.experts import NeuronExperts
from deepseek.model.moe.layer import MoELayer
from deepseek.model.transformer import Transformer
from deepseek.ops.linear import PackedWeight, QuantisedWeight
from deepseek.ops.lora import lora_linear
from deepseek.ops.moe.gate import Choice
from deepseek.ops.moe.neurons import neurons
from deepseek.weights.adapter import MAX_RANK, MODULES

EXPERTS = "experts"
"""A target: the stacked experts of a mixture."""
TARGETS = (*MODULES, EXPERTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """What is adapted, and how much."""

    rank: int = 16
    alpha: float = 32.0
    """What is added is multiplied by alpha / rank."""
    targets: list[str] = field(default_factory=lambda: list(TARGETS))
    """Linear layers by the last part of their names; `experts` are those of a mixture."""

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MAX_RANK or not 0 < self.alpha <= 1e6:
            raise ConfigError(
                f"lora.rank is {self.rank}, alpha {self.alpha}",
                f"rank is 1 to {MAX_RANK:,}, alpha positive",
            )
        for name in self.targets:
            if name not in TARGETS:
                raise ConfigError(f"lora.targets names {name!r}", suggest(name, TARGETS))
        if not self.targets:
            raise ConfigError("lora.targets is empty", f"known: {', '.join(TARGETS)}")

    @property
    def scale(self) -> float:
        """Of what is added."""
        return self.alpha / self.rank


class LoraLinear(Linear):
    """A frozen linear layer to which low-rank products are added; it may be several matrices."""

    def __init__(
        self,
        base: Linear,
        parts: Sequence[tuple[str, int]],
        settings: LoraSettings,
        dtype: torch.dtype,
    ) -> None:
        """Take over a layer.

        Args:
            base: Its weights are used as they are.
            parts: Names and numbers of rows of the matrices in it.
            settings: Which of them are adapted, and how.
            dtype: Of products.
        """
        nn.Module.__init__(self)
        self.weight, self.packed = None, None
        self.bias = None
        if base.bias is not None:
            self.bias = nn.Parameter(base.bias.detach(), requires_grad=False)
        self.frozen = _frozen(base)
        self.dtype, self.scale, self.rank = dtype, settings.scale, settings.rank
        self.names, self.blocks = [], []
        for (name, _), (start, end) in zip(
            parts, pairwise(accumulate((n for _, n in parts), initial=0)), strict=True
        ):
            if name.rpartition(".")[2] in settings.targets:
                self.names.append(name)
                self.blocks.append(slice(start, end))
        self.is_on = True
        """Whether anything is added; without it the layer is the base's."""
        self.down: nn.Parameter | None = None
        self.up: nn.Parameter | None = None
        if self.blocks:
            device = self.frozen.device if isinstance(self.frozen, Tensor) else None
            n_rows = sum(block.stop - block.start for block in self.blocks)
            n_in = self.frozen.shape[1]
            self.down = nn.Parameter(torch.empty(len(self.blocks) * self.rank, n_in, device=device))
            self.up = nn.Parameter(torch.zeros(n_rows, self.rank, device=device))

    def forward(self, x: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        """Multiply, and add."""
        pair = None
        if self.is_on and self.down is not None and self.up is not None:
            pair = self.down, self.up
        return lora_linear(x, self.frozen, self.bias, pair, self.blocks, self.scale, self.dtype)

    def parts(self) -> Iterator[tuple[str, LowRank]]:
        """What is added to each adapted matrix, by its name in a block."""
        if self.down is None or self.up is None:
            return
        start = 0
        for number, (name, block) in enumerate(zip(self.names, self.blocks, strict=True)):
            end = start + block.stop - block.start
            down = self.down.detach()[number * self.rank : (number + 1) * self.rank]
            yield name, LowRank(down, self.up.detach()[start:end], self.scale)
            start = end

    def dense_weight(self) -> Float[Tensor, "out in"]:
        """The merged weight, in float32."""
        frozen = self.frozen
        dense = frozen.unpack() if isinstance(frozen, QuantisedWeight) else frozen
        merged = dense.to(torch.float32, copy=True)
        for (_, part), block in zip(self.parts(), self.blocks, strict=True):
            merged[block] += part.scale * (part.up.double() @ part.down.double()).float()
        return merged


class LoraExperts(nn.Module):
    """Frozen SwiGLU experts, stacked, each with low-rank matrices of its own."""

    def __init__(self, base: NeuronExperts, settings: LoraSettings, dtype: torch.dtype) -> None:
        super().__init__()
        self.sizes, self.dtype = base.sizes, dtype
        self.rank, self.scale = settings.rank, settings.scale
        self.frozen: dict[str, Tensor] = {
            name: getattr(base, name).detach() for name in NeuronExperts.rows
        }
        for name, matrix in self.frozen.items():
            n_rows, width = matrix.shape
            down = torch.empty(len(self.sizes) * self.rank, width, device=matrix.device)
            self.register_parameter(f"{name}_down", nn.Parameter(down))
            up = torch.zeros(n_rows, self.rank, device=matrix.device)
            self.register_parameter(f"{name}_up", nn.Parameter(up))

    def forward(self, x: Float[Tensor, "T D"], choice: Choice) -> Float[Tensor, "T D"]:
        """What the chosen ones say, times their weights."""
        matrices = self.merged("gate_up"), self.merged("down")
        return neurons(x, choice, self.sizes, (matrices[0].to(x.dtype), matrices[1].to(x.dtype)))

    def merged(self, name: str) -> Float[Tensor, "rows D"]:
        """One of the stacked matrices with what is added to it."""
        down, up = getattr(self, f"{name}_down"), getattr(self, f"{name}_up")
        sizes = [NeuronExperts.rows[name] * size for size in self.sizes]
        changes = [
            rows @ own for rows, own in zip(up.split(sizes), down.split(self.rank), strict=True)
        ]
        change: Tensor = self.scale * torch.cat(changes)
        return self.frozen[name] + change


def attach(
    model: Transformer, settings: LoraSettings, dtype: torch.dtype, seed: int | None
) -> None:
    """Freeze a model and put low-rank parts beside its layers; it computes what it did.

    Args:
        model: Plain, or packed.
        settings: What is adapted.
        dtype: Of products.
        seed: Of the first numbers of `down`; those of `up` are 0. None: they have none, as when
            only shapes are wanted.

    Raises:
        ConfigError: The model has none of the targets.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for block in model.blocks:
        assert isinstance(block, Block)
        for _, linear, names in list(linears_of(block)):
            n_rows = _n_rows(linear)
            parts = list(zip(names, part_sizes(model.config, names, n_rows), strict=True))
            _replace(block, linear, LoraLinear(linear, parts, settings, dtype))
        layer = block.feed_forward
        if isinstance(layer, MoELayer) and EXPERTS in settings.targets:
            if isinstance(layer.experts, NeuronExperts):
                _replace(layer, layer.experts, LoraExperts(layer.experts, settings, dtype))
            else:  # they are of low rank themselves
                layer.experts.float().requires_grad_(True)
    _freeze_ends(model, settings, dtype)
    if not any(True for _ in trained(model)):
        raise ConfigError(
            f"the model has none of {', '.join(settings.targets)}", "name other lora.targets"
        )
    if seed is not None:
        _initialise(model, seed)


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """What learns, by name."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def adapted(model: Transformer) -> Iterator[tuple[str, LowRank]]:
    """What is added to each matrix, by its name in a checkpoint. Experts are not among them."""
    for number, block in enumerate(model.blocks):
        for module in block.modules():
            if isinstance(module, LoraLinear):
                for name, part in module.parts():
                    yield f"model.layers.{number}.{name}", part


def switch(model: nn.Module, is_on: bool) -> None:
    """Let adapted layers add, or be the base's again."""
    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.is_on = is_on


@torch.no_grad()
def merge(model: Transformer, dtype: torch.dtype) -> None:
    """Add all low-rank parts to the weights, which become plain parameters again."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LoraLinear):
                setattr(module, name, _plain(child.dense_weight().to(dtype), child.bias))
            elif isinstance(child, LoraExperts):
                experts = NeuronExperts(child.sizes, child.frozen["down"].shape[1])
                for which in NeuronExperts.rows:
                    setattr(experts, which, nn.Parameter(child.merged(which).to(dtype)))
                setattr(module, name, experts)


def _plain(weight: Tensor, bias: Tensor | None) -> Linear:
    with torch.device("meta"):
        linear = Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight)
    linear.bias = None if bias is None else nn.Parameter(bias.detach().to(weight.dtype))
    return linear


def _freeze_ends(model: Transformer, settings: LoraSettings, dtype: torch.dtype) -> None:
    """The head becomes a frozen layer, and the embedding a look-up in a table."""
    model.head = LoraLinear(model.head, [("head", _n_rows(model.head))], settings, dtype)
    _freeze_embedding(model.embedding, dtype)


def _freeze_embedding(embedding: Embedding, dtype: torch.dtype) -> None:
    if embedding.weight is not None:
        table = embedding.weight.detach()
        embedding.use_lookup(lambda ids: table[ids].to(dtype))
    elif (lookup := embedding.lookup) is not None:
        embedding.use_lookup(lambda ids: lookup(ids).to(dtype))


@torch.no_grad()
def _initialise(model: Transformer, seed: int) -> None:
    """`down` as PEFT begins: uniform, with the bound of a linear layer's default."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in trained(model):
        if name.endswith("down"):
            bound = math.sqrt(1 / parameter.shape[1])
            values = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            parameter.copy_(values)


def _frozen(base: Linear) -> Tensor | QuantisedWeight:
    if isinstance(base.packed, QuantisedWeight):
        return base.packed
    if isinstance(base.packed, PackedWeight):
        return base.packed.unpack()
    assert base.weight is not None
    return base.weight.detach()


def _n_rows(linear: Linear) -> int:
    return _frozen(linear).shape[0]


def _replace(parent: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in parent.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)
                return
