"""What a model takes on each of several devices, and which layout of it fits.

Everything is counted from the config: weights by `weight_table`, keys and values by the pages of
`budget`, what training keeps by `activations`. The figures are those of the device that has most.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from deepseek.core.errors import ConfigError
from deepseek.model.activations import CHUNK, activation_bytes, active_neurons
from deepseek.model.budget import FIXED_BYTES, KV_FORMATS, SPARE_NODES, Needs, PageCounts
from deepseek.model.config import ModelConfig
from deepseek.model.device_layout import (
    Devices,
    Layout,
    fullest_share,
    serving_layouts,
    stages,
    training_layouts,
)
from deepseek.model.memory_plan import MemoryPlan, Share
from deepseek.model.weight_table import FORMATS, Kind, Piece, Stored, summed, weight_table

SPLIT: tuple[Kind, ...] = ("embedding", "head", "attention", "dense")
"""What tensor parallelism cuts; experts too, where they are not dealt out whole."""
COUNTS = (*range(1, 9), *range(16, 257, 8), *range(320, 4_097, 64))
"""Numbers of devices among which the smallest that suffices is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the model is to do."""

    context: int
    """Tokens of a sequence."""
    batch: int = 1
    """Sequences side by side in each copy; in training, of a pass."""
    kv_format: str = "bfloat16"
    has_nodes: bool = False
    """Whether long sequences are read with hierarchical attention, whose memory nodes are kept."""
    training: bool = False
    optimiser: Literal["adamw", "muon"] = "adamw"
    recompute: bool = False
    """In training: activations are computed again."""
    headroom: float = 0.05
    """Share of a device that is kept free: buffers of communication, fragments."""

    def __post_init__(self) -> None:
        if not (1 <= self.context <= 100_000_000 and 1 <= self.batch <= 1_000_000):
            raise ConfigError(
                f"context is {self.context}, batch {self.batch}", "both are 1 or more"
            )
        if self.kv_format not in KV_FORMATS:
            raise ConfigError(
                f"keys and values in {self.kv_format!r}", f"known: {', '.join(KV_FORMATS)}"
            )
        if not 0 <= self.headroom < 1:
            raise ConfigError(f"headroom is {self.headroom}", "it is a share: 0 to below 1")


@dataclass(frozen=True, slots=True)
class Tried:
    """A layout and what it takes on its fullest device."""

    layout: Layout
    memory: MemoryPlan

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return self.memory.left >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """An answer for some devices."""

    devices: Devices
    chosen: Tried
    """The first layout that fits; if none does, the one that lacks least."""
    passed_over: tuple[Tried, ...]
    """Simpler ones that do not fit."""
    smallest: Tried | None
    """The layout on the fewest such devices that fits; None: not on any number that was tried."""


class DevicePlanner:
    """Counts one model, one number format and one workload."""

    def __init__(self, config: ModelConfig, weight_format: str, workload: Workload) -> None:
        """Count the weights.

        Raises:
            ConfigError: There is no such format, or it cannot be trained.
        """
        if workload.training and weight_format not in ("float32", "bfloat16"):
            raise ConfigError(
                f"training computes in float32 or bfloat16, not {weight_format}",
                "name one of these with --dtype",
            )
        if config.attention == "hierarchical" and workload.kv_format != "bfloat16":
            raise ConfigError("a learned memory keeps keys in bfloat16", "leave --kv-dtype out")
        self.config, self.work, self.weight_format = config, workload, weight_format
        # Trained weights, gradients and states stay in float32; only products are in bfloat16.
        self.table = weight_table(config, "float32" if workload.training else weight_format)
        self._known: dict[tuple[int, bool, bool], list[Piece]] = {}
        self._shares: dict[int, float] = {}

    def plan(self, devices: Devices) -> DevicePlan:
        """Choose a layout."""
        tried = list(self._until_fit(devices))
        chosen = tried[-1] if tried[-1].fits else max(tried, key=lambda t: t.memory.left)
        smallest: Tried | None = None
        least = summed(self.table).total * (3 if self.work.training else 1)
        for n in COUNTS:
            if least > n * devices.n_bytes:
                continue  # not even weights, and gradients and states
            last = list(self._until_fit(Devices(n, devices.n_bytes)))[-1]
            if last.fits:
                smallest = last
                break
        rest = tuple(t for t in tried if t is not chosen)
        return DevicePlan(devices=devices, chosen=chosen, passed_over=rest, smallest=smallest)

    def _until_fit(self, devices: Devices) -> Iterator[Tried]:
        layouts = training_layouts if self.work.training else serving_layouts
        for layout in layouts(self.config, devices.n):
            tried = Tried(layout, self.memory(layout, devices.n_bytes))
            yield tried
            if tried.fits:
                return

    def memory(self, layout: Layout, n_bytes: int) -> MemoryPlan:
        """What a layout takes on its fullest device of so many bytes."""
        counted = self._trained if self.work.training else self._served
        spare = Share("kept free", round(self.work.headroom * n_bytes), "buffers, fragments")
        runs = self._kinds_of_stages(layout.pipeline)
        plans = [MemoryPlan(n_bytes, (*counted(layout, layers), spare)) for layers in runs]
        return max(plans, key=lambda plan: plan.total)

    def _kinds_of_stages(self, n_stages: int) -> list[range]:
        """Stages of which no two are alike: inner ones differ by their length only."""
        runs = stages(self.config.n_layers, n_stages)
        return [*{len(run): run for run in runs[1:-1]}.values(), runs[0], runs[-1]]

    def _pieces(self, layers: range) -> list[Piece]:
        """What a stage has, by kind: its layers, and what stands before or behind all of them."""
        is_first, is_last = layers.start == 0, layers.stop == self.config.n_layers
        known = self._known.get(key := (len(layers), is_first, is_last))
        if known is not None:
            return known
        first = -1 if is_first else layers.start
        pieces = [p for p in self.table if first <= p.layer < layers.stop + is_last]
        if is_last and not is_first and self.config.tied_embeddings:
            pieces += [p for p in self.table if p.kind == "embedding"]  # it is the head, too
        kinds = dict.fromkeys(piece.kind for piece in pieces)
        self._known[key] = [
            Piece(-1, kind, sum(p.n_parameters for p in own), summed(own))
            for kind in kinds
            for own in ([p for p in pieces if p.kind == kind],)
        ]
        return self._known[key]

    def _share(self, piece: Piece, layout: Layout) -> float:
        """Of a piece, what the fullest device of those that share matrices has."""
        if piece.kind in SPLIT:
            return 1 / layout.tensor
        if piece.kind != "experts":
            return 1.0
        if layout.expert > 1 and not self.work.training:
            return self._dealt(layout.expert)
        return 1 / layout.tensor

    def _dealt(self, n: int) -> float:
        if n not in self._shares:
            assert self.config.moe is not None
            self._shares[n] = fullest_share(self.config.moe.sizes, n)
        return self._shares[n]

    def _served(self, layout: Layout, layers: range) -> tuple[Share, ...]:
        pieces = self._pieces(layers)
        parts = {kind: Stored() for kind in (*SPLIT, "experts", "replicated")}
        for piece in pieces:
            own = piece.stored.times(self._share(piece, layout))
            parts[piece.kind] = parts[piece.kind] + own
        scales = sum(part.scales for part in parts.values())
        kept = self._cut(layout, layers)
        names = {"embedding": "embedding", "head": "head", "attention": "attention",
                 "dense": "dense feed-forward layers", "experts": "experts",
                 "replicated": "norms, gates and biases"}  # fmt: skip
        shares = [Share(names[k], part.codes + part.wide) for k, part in parts.items()]
        shares.append(Share("scales of quantised weights", scales))
        shares += self._cache(kept)
        working = self._needs(kept).working_bytes(self.work.context, self.work.kv_format)
        shares += [
            Share("activations of a pass", working),
            Share("threads and allocators", FIXED_BYTES),
        ]
        return tuple(share for share in shares if share.n_bytes)

    def _cut(self, layout: Layout, layers: range) -> ModelConfig:
        """The dense model that one device computes of."""
        config = self.config
        return replace(
            config,
            moe=None,
            n_layers=len(layers),
            n_heads=config.n_heads // layout.tensor,
            n_kv_heads=config.n_kv_heads // layout.tensor,
            d_ff=-(-active_neurons(config) // layout.tensor),
            vocab_size=-(-config.vocab_size // layout.tensor),
        )

    def _needs(self, kept: ModelConfig) -> Needs:
        return Needs(config=kept, n_bytes=0, taken=0, weights=0, has_nodes=self.work.has_nodes)

    def _cache(self, kept: ModelConfig) -> list[Share]:
        """Keys, values and memory nodes of all sequences, in whole pages."""
        work, needs = self.work, self._needs(kept)
        if kept.attention == "hierarchical":
            one = work.batch * kept.n_layers * kept.n_kv_heads * 2 * kept.d_head * 2
            nodes = one * (work.context // kept.memory.node)
            still = one // 2 * (work.context % kept.memory.node)
            detail = f"a key and a value for {kept.memory.node} tokens"
            return [
                Share("keys and values", one * work.context),
                Share("memory nodes", nodes + still, detail),
            ]
        pages = needs.pages(work.context, work.kv_format)
        spare = SPARE_NODES if pages.nodes else 0
        counts = (
            ("keys and values", PageCounts(hot=pages.hot * work.batch)),
            (f"keys and values in {work.kv_format}",
             PageCounts(hot=0, cold=pages.cold * work.batch)),
            ("memory nodes", PageCounts(hot=0, nodes=(pages.nodes - spare) * work.batch + spare)),
        )  # fmt: skip
        return [
            Share(name, needs.cache_bytes(count, work.kv_format), _of(work.batch, work.context))
            for name, count in counts
        ]

    def _trained(self, layout: Layout, layers: range) -> tuple[Share, ...]:
        pieces, work = self._pieces(layers), self.work
        n_shards = layout.data if layout.is_sharded else 1
        numbers = {piece: piece.n_parameters * self._share(piece, layout) for piece in pieces}
        own = sum(n * self._kept_share(p, layout, n_shards) for p, n in numbers.items())
        states = sum(
            n * self._kept_share(p, layout, n_shards) * self._state_numbers(p)
            for p, n in numbers.items()
        )
        width = 2 if self.weight_format == "bfloat16" else 4
        kept, n_tokens = self._cut(layout, layers), work.batch * work.context
        in_flight = min(layout.pipeline, self.config.n_layers)
        activations = activation_bytes(
            replace(kept, attention="dense"), n_tokens, width=width, recompute=work.recompute
        )
        shares = [
            Share("weights", round(4 * own), "float32"),
            Share("gradients", round(4 * own), "float32"),
            Share(f"states of {work.optimiser}", round(4 * states), "float32"),
            Share("gathered weights", self._gathered(numbers, layout, width, len(layers))),
            Share(
                "activations", activations * in_flight, _of(work.batch * in_flight, work.context)
            ),
            Share(
                "logits", 3 * min(CHUNK, n_tokens) * kept.vocab_size * 4, "of a chunk, three times"
            ),
        ]
        if width == 2 and not layout.is_sharded:
            shares.append(
                Share("weights in bfloat16", round(2 * own), "for the products of a pass")
            )
        return tuple(share for share in shares if share.n_bytes)

    def _kept_share(self, piece: Piece, layout: Layout, n_shards: int) -> float:
        """Of what a device computes with, what it keeps between passes."""
        if piece.kind == "experts" and layout.expert > 1:
            return self._dealt(layout.expert) * layout.expert / n_shards
        return 1 / n_shards

    def _state_numbers(self, piece: Piece) -> int:
        """Numbers that the optimiser keeps for each parameter."""
        is_muon = self.work.optimiser == "muon"
        return 1 if is_muon and piece.kind in ("attention", "dense", "experts") else 2

    def _gathered(
        self, numbers: dict[Piece, float], layout: Layout, width: int, n_layers: int
    ) -> int:
        """Whole weights of the layer that is computed and of the next one, and the gradients of
        one."""
        if not layout.is_sharded:
            return 0
        ends, layer = [0.0], 0.0
        for piece, n in numbers.items():
            if piece.kind in ("embedding", "head"):
                ends.append(n)
            elif piece.kind == "experts" and layout.expert > 1:
                # Dealt out they stay where they are, unless several devices share a part.
                layer += n / n_layers * self._dealt(layout.expert) * (layout.data > layout.expert)
            else:
                layer += n / n_layers
        return round(max(layer, *ends) * (2 * width + 4))


@dataclass(frozen=True, slots=True)
class FormatRow:
    """What all weights take in one number format, wherever they are."""

    name: str
    stored: Stored
    cache: int
    """Keys and values of the workload, all sequences, in the format that goes with it."""


def format_rows(config: ModelConfig, context: int, batch: int) -> tuple[FormatRow, ...]:
    """Weights and cache in each format, the widest first: float32 with a float32 cache, then
    bfloat16 with bfloat16, int8 and int4 with keys and values in as many bits."""
    rows = []
    for name in FORMATS:
        kv_format = name if name in ("int8", "int4") else "bfloat16"
        if config.attention == "hierarchical":
            kv_format = "bfloat16"
        work = Workload(context=context, batch=batch, kv_format=kv_format)
        planner = DevicePlanner(config, name, work)
        cache = sum(share.n_bytes for share in planner._cache(config))
        stored = summed(planner.table)
        rows.append(FormatRow(name, stored, cache * (2 if name == "float32" else 1)))
    return tuple(rows)


def _of(n_sequences: int, n_tokens: int) -> str:
    return f"{n_sequences:,} x {n_tokens:,} tokens"
