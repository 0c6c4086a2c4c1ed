"""Which experts a model has, and how tokens are routed to them: the `[moe]` part of a preset."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

from deepseek.core.config import build, suggest
from deepseek.core.errors import ConfigError

Form = Literal["low_rank", "slices", "full"]
MAX_EXPERTS = 4_096
MAX_SIZE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertGroup:
    """Experts of one domain, which may be trained, removed and chosen apart from all others."""

    name: str
    sizes: tuple[int, ...]
    """Of each expert: ranks in form `low_rank`, else neurons."""
    always: bool = False
    """Whether tokens of all domains may go there, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoEConfig:
    """A mixture of experts in place of each dense feed-forward layer."""

    form: Form
    """`low_rank`: experts that add to the products of an untouched dense layer. `slices`: a dense
    layer's neurons in two parts, one that always computes and one that is routed. `full`: SwiGLU
    layers of any width, beside a shared one if there is one."""
    groups: tuple[ExpertGroup, ...]
    n_active_experts: int = 2
    """Slots of a token."""
    n_domains: int = 0
    """Groups that a token of unknown domain may go to, beside those of all; 0: to any."""
    shared: int = 0
    """Neurons that always compute; form `low_rank` has its whole dense layer instead."""
    parts: int = 1
    """Form `full`: how many parts of a layer the experts of each group take turns to be; a token
    has equally many of each, at weight 1."""
    routing: Literal["learned", "fixed", "hash"] = "learned"
    """`fixed`: the first experts of a token's domain; `hash`: by token id. Both to compare with."""
    balance: Literal["bias", "none"] = "bias"
    """Whether biases follow the load."""
    balance_loss: float = 0.0
    """Weight of the loss that asks for equal loads."""
    z_loss: float = 0.0
    """Weight of the loss that keeps the gate's logits small."""
    budget: float | None = None
    """Experts that a token has on average, up to `n_active_experts`: an expert that does nothing
    competes for each slot, and balancing moves its bias so that this many are left. None: there
    is no such expert."""
    scale: float = 2.0
    """Form `low_rank`: what experts say is multiplied by this: alpha / rank, for all ranks."""

    def __post_init__(self) -> None:
        self._check_groups()
        n = self.n_experts
        if not 0 <= self.n_active_experts <= n:
            raise ConfigError(
                f"moe.n_active_experts is {self.n_active_experts}", f"it must be 0 to {n}"
            )
        if not 0 <= self.n_domains <= len(self.groups):
            raise ConfigError(
                f"moe.n_domains is {self.n_domains}", f"there are {len(self.groups)} groups"
            )
        if not 0 <= self.shared <= MAX_SIZE or (self.shared and self.form == "low_rank"):
            raise ConfigError(
                f"moe.shared is {self.shared}", "forms slices and full have 0 or more such neurons"
            )
        if self.parts != 1:
            self._check_parts()
        if self.budget is not None:
            self._check_budget(self.budget)
        for name in ("balance_loss", "z_loss", "scale"):
            value = getattr(self, name)
            if not 0 <= value <= 1_000:
                raise ConfigError(f"moe.{name} is {value}", "it must be 0 to 1,000")

    def _check_groups(self) -> None:
        if not self.groups:
            raise ConfigError("moe.groups is empty", "add [[moe.groups]] with name and sizes")
        names = [group.name for group in self.groups]
        for group in self.groups:
            if not group.name.isidentifier() or names.count(group.name) > 1:
                raise ConfigError(
                    f"a group of experts is named {group.name!r}", "use each word once"
                )
            if not group.sizes or not all(1 <= size <= MAX_SIZE for size in group.sizes):
                raise ConfigError(
                    f"group {group.name} has sizes {list(group.sizes)[:8]}",
                    f"it needs one for each expert, 1 to {MAX_SIZE:,}",
                )
        if self.n_experts > MAX_EXPERTS:
            raise ConfigError(f"{self.n_experts} experts", f"there may be {MAX_EXPERTS:,}")

    def _check_parts(self) -> None:
        counts = [len(group.sizes) for group in self.groups]
        if self.form != "full" or not 1 <= self.parts <= 64:
            raise ConfigError(f"moe.parts is {self.parts}", "only form full has parts, up to 64")
        if any(count % self.parts for count in (*counts, self.n_active_experts)):
            raise ConfigError(
                f"moe.parts is {self.parts}, groups have {counts} experts and a token "
                f"{self.n_active_experts}",
                "all must be multiples of the parts",
            )

    def _check_budget(self, budget: float) -> None:
        if not 0 < budget <= self.n_active_experts:
            raise ConfigError(
                f"moe.budget is {budget}", f"it must be above 0, at most {self.n_active_experts}"
            )
        if self.parts != 1 or self.routing != "learned":
            raise ConfigError(
                "moe.budget needs a gate that may leave slots empty",
                "use it with routing = learned, and without parts",
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of all experts, in order."""
        return tuple(size for group in self.groups for size in group.sizes)

    @property
    def n_experts(self) -> int:
        """In all groups."""
        return sum(len(group.sizes) for group in self.groups)

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """The first expert of each group, and the one after its last."""
        ends = accumulate((len(group.sizes) for group in self.groups), initial=0)
        return tuple(pairwise(ends))

    @property
    def always(self) -> tuple[int, ...]:
        """Numbers of the groups for all domains."""
        return tuple(number for number, group in enumerate(self.groups) if group.always)

    def group(self, name: str) -> int:
        """The number of a group, which is its domain's.

        Raises:
            ConfigError: There is no such group.
        """
        names = [group.name for group in self.groups]
        if name not in names:
            raise ConfigError(f"there is no group of experts {name!r}", suggest(name, names))
        return names.index(name)

    def unit_parameters(self, d_model: int, d_ff: int) -> int:
        """Weights of one rank or neuron of an expert."""
        # Gate and up are d_ff x d_model, down is d_model x d_ff: the same sum for all three.
        return 3 * (d_model + (d_ff if self.form == "low_rank" else 0))

    def n_parameters(self, d_model: int, d_ff: int) -> int:
        """Weights of one layer, its dense part included; biases of the gate are not trained."""
        experts = sum(self.sizes) * self.unit_parameters(d_model, d_ff)
        gate = (self.n_experts + (self.budget is not None)) * d_model
        if self.form == "low_rank":
            return 3 * d_model * d_ff + experts + gate
        scales = self.n_experts if self.form == "slices" else 0
        return 3 * d_model * self.shared + experts + gate + scales

    def to_table(self) -> dict[str, Any]:
        """As JSON and TOML have it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "MoEConfig":
        """Read the `[moe]` part of a preset or of a checkpoint's `config.json`.

        Raises:
            ConfigError: A key or a value is wrong.
        """
        groups = table.get("groups", ())
        if not isinstance(groups, list | tuple) or not all(isinstance(g, dict) for g in groups):
            raise ConfigError("moe.groups is no list of tables", "write [[moe.groups]] for each")
        built = tuple(build(ExpertGroup, _with_sizes(group), "moe.groups.") for group in groups)
        return build(cls, dict(table) | {"groups": built}, where="moe.")


def _with_sizes(group: Mapping[str, Any]) -> dict[str, Any]:
    sizes = group.get("sizes", [])
    if not isinstance(sizes, list | tuple) or not all(type(size) is int for size in sizes):
        raise ConfigError(f"moe.groups.sizes is {sizes!r}", "give whole numbers, one an expert")
    if len(sizes) > MAX_EXPERTS:
        raise ConfigError(f"{len(sizes)} experts", f"there may be {MAX_EXPERTS:,}")
    return dict(group) | {"sizes": tuple(sizes)}
