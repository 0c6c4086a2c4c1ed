"""Devices, and the ways in which a model may be spread over them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from deepseek.core.errors import ConfigError
from deepseek.core.memory import parse_bytes
from deepseek.model.config import ModelConfig

MOST_DEVICES = 65_536
TENSOR = (1, 2, 4, 8)
"""Devices that one matrix may be cut over: products wait for each other twice a layer."""


@dataclass(frozen=True, slots=True)
class Devices:
    """Some devices of one kind."""

    n: int
    n_bytes: int
    """Memory of each."""

    @classmethod
    def parse(cls, text: str) -> "Devices":
        """Read `8x80GB`, or `24GB` for one.

        Raises:
            ConfigError: It is no number of devices and a size.
        """
        match = re.fullmatch(r"\s*(?:(\d{1,6})\s*[xX]\s*)?(\d+(?:\.\d+)?\s*[A-Za-wyzYZ]*)\s*", text)
        if match is None or not 1 <= int(match[1] or 1) <= MOST_DEVICES:
            raise ConfigError(f"{text!r} names no devices", "write 8x80GB, or 24GB for one")
        return cls(int(match[1] or 1), parse_bytes(match[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How many devices share what."""

    tensor: int = 1
    """That matrices are cut over."""
    pipeline: int = 1
    """Runs of layers, one behind the other."""
    data: int = 1
    """Copies that have requests, or windows, of their own."""
    expert: int = 1
    """That whole experts are dealt out to: for inference those of `tensor`, for training those
    of `data`."""
    is_sharded: bool = False
    """In training: whether copies keep a part of the weights each, and gather a layer when it is
    computed (FSDP)."""

    @property
    def n_devices(self) -> int:
        """In all."""
        return self.tensor * self.pipeline * self.data

    def __str__(self) -> str:
        parts = []
        if self.data > 1:
            parts.append(f"{'FSDP' if self.is_sharded else 'data parallel'} {self.data}")
        if self.tensor > 1:
            parts.append(f"tensor parallel {self.tensor}")
        if self.pipeline > 1:
            parts.append(f"pipeline {self.pipeline}")
        text = " x ".join(parts) or "one device"
        return f"{text}, experts dealt out to {self.expert}" if self.expert > 1 else text


def reasons(layout: Layout, *, training: bool) -> list[str]:
    """Why each part of a layout is there, for people."""
    found = []
    n_copy = layout.tensor * layout.pipeline
    if layout.data > 1 and not training:
        devices = "one device holds" if n_copy == 1 else f"{n_copy} devices hold"
        found.append(f"{devices} a copy: {layout.data} copies have requests of their own")
    elif layout.data > 1 and layout.is_sharded:
        found.append(
            f"{layout.data} devices train on windows of their own and keep a part each of weights, "
            "gradients and states, since whole ones do not fit"
        )
    elif layout.data > 1:
        found.append(f"{layout.data} copies train on windows of their own: each fits as a whole")
    if layout.expert > 1:
        why = "no product is cut, and tokens travel once a layer"
        found.append(f"whole experts are dealt out to {layout.expert} devices: {why}")
    if layout.tensor > 1:
        found.append(
            f"matrices and heads are cut over {layout.tensor} devices, which share fast links: "
            "with fewer, a layer or its cache is too large"
        )
    if layout.pipeline > 1:
        found.append(f"the layers stand on {layout.pipeline} devices one behind the other")
    return found or ["everything fits on one device"]


def stages(n_layers: int, n_stages: int) -> list[range]:
    """Runs of about equally many layers."""
    ends = [n_layers * i // n_stages for i in range(n_stages + 1)]
    return [range(a, b) for a, b in pairwise(ends)]


def fullest_share(sizes: Sequence[int], n_devices: int) -> float:
    """Of all experts, the share of the device that has most, the largest dealt out first."""
    loads = [0] * n_devices
    for size in sorted(sizes, reverse=True):
        loads[loads.index(min(loads))] += size
    return max(loads) / sum(sizes)


def can_deal_out(config: ModelConfig, n_devices: int) -> bool:
    """Whether each device gets a whole expert; those of low rank belong to dense products."""
    moe = config.moe
    return moe is not None and moe.form != "low_rank" and 1 < n_devices <= moe.n_experts


def serving_layouts(config: ModelConfig, n_devices: int) -> Iterator[Layout]:
    """Few devices a copy first: copies serve more requests, and wait for nobody."""
    groups = [
        (tensor * pipeline, pipeline, tensor)
        for tensor in _tensor(config)
        for pipeline in _divisors(n_devices // tensor)
        if n_devices % (tensor * pipeline) == 0 and pipeline <= config.n_layers
    ]
    for size, pipeline, tensor in sorted(groups):
        expert = tensor if can_deal_out(config, tensor) else 1
        yield Layout(tensor=tensor, pipeline=pipeline, expert=expert, data=n_devices // size)


def training_layouts(config: ModelConfig, n_devices: int) -> Iterator[Layout]:
    """Simple ones first: copies, parts of copies, experts dealt out, matrices cut, stages."""
    yield Layout(data=n_devices)
    for pipeline in _divisors(n_devices):
        if pipeline > config.n_layers:
            return
        for tensor in _tensor(config):
            if n_devices % (pipeline * tensor):
                continue
            data = n_devices // (pipeline * tensor)
            base = Layout(tensor=tensor, pipeline=pipeline, data=data, is_sharded=data > 1)
            if n_devices > 1:
                yield base
            fitting = [n for n in _divisors(data) if can_deal_out(config, n)]
            if fitting:
                yield replace(base, expert=fitting[-1])


def _tensor(config: ModelConfig) -> list[int]:
    """Numbers of devices that attention's heads can be dealt out to."""
    return [n for n in TENSOR if config.n_kv_heads % n == 0]


def _divisors(n: int) -> list[int]:
    return [i for i in range(1, n + 1) if n % i == 0] if n else []
