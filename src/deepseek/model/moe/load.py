"""How busy experts are: loads by layer, domain and expert, figures of them, and a picture.

Let p be an expert's share of all (token, slot) pairs of its layer, E the number of experts, H the
entropy of p. `u_entropy` is exp(H) / E, the share of experts that equal loads would need for the
same entropy. `u_busy` is mean / largest load = 1 / (1 + MaxVio), the share of time that a mean
expert is busy while the fullest one works. Sampling alone moves them: measure 100,000 tokens.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import torch
from jaxtyping import Int, Num
from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.model.block import Block
from deepseek.model.moe.config import MoEConfig
from deepseek.model.moe.layer import MoELayer
from deepseek.model.transformer import Transformer

DEAD = 0.1
"""Share of the mean load below which an expert counts as dead."""
CELL, LEFT, TOP = 22, 64, 58
STYLE = "text { font: 12px system-ui, sans-serif; fill: #333 } .back { fill: #fff }"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one layer's loads."""

    u_entropy: float
    u_busy: float
    max_vio: float
    """Largest load / mean - 1."""
    cv: float
    """Deviation / mean."""
    dead: float
    """Share of experts with less than a tenth of the mean load."""


def figures(load: Num[Tensor, " E"]) -> Figures:
    """Measure one layer's loads. Without any token all experts are dead."""
    n, total = len(load), float(load.sum())
    if not total:
        return Figures(u_entropy=0.0, u_busy=0.0, max_vio=0.0, cv=0.0, dead=1.0)
    shares = load.double() / total
    entropy = float(torch.special.entr(shares).sum().exp()) / n
    most = float(shares.max()) * n
    deviation = float(shares.std(correction=0)) * n
    dead = float((shares * n < DEAD).double().mean())
    return Figures(u_entropy=entropy, u_busy=1 / most, max_vio=most - 1, cv=deviation, dead=dead)


class ExpertLoad:
    """Loads of a model's experts, added up over passes."""

    def __init__(self, moe: MoEConfig, n_layers: int) -> None:
        self.moe = moe
        self.counts = torch.zeros(n_layers, len(moe.groups) + 1, moe.n_experts, dtype=torch.int64)
        """Tokens by layer, domain (the last: unknown) and expert."""

    def add(self, counts: Int[Tensor, "L N E"]) -> None:
        """Count more."""
        self.counts += counts.to(self.counts.device)

    def report(self) -> dict[str, Any]:
        """Figures by layer, their mean and the worst, and by domain, ready for JSON."""
        loads = self.counts.sum(1)
        layers = [figures(load) for load in loads]
        names = [*(group.name for group in self.moe.groups), "unknown"]
        return {
            "experts": self.moe.n_experts,
            "tokens_times_slots": int(loads.sum(1).max()),
            "mean": _mean(layers),
            "worst": {
                name: (min if name.startswith("u_") else max)(getattr(f, name) for f in layers)
                for name in Figures.__slots__
            },
            "dead_experts": int(sum(round(f.dead * self.moe.n_experts) for f in layers)),
            "domains": {
                name: _mean([figures(load) for load in self.counts[:, number]])
                | {"share_by_group": self._by_group(number)}
                for number, name in enumerate(names)
                if int(self.counts[:, number].sum())
            },
            "layers": [
                asdict(f) | {"load": load.tolist()} for f, load in zip(layers, loads, strict=True)
            ],
        }

    def heat_map(self) -> str:
        """An SVG: layers down, experts across, dark where the load is above the mean."""
        loads = self.counts.sum(1).double()
        ratios = loads / loads.mean(1, keepdim=True).clamp(min=1e-9)
        width, height = LEFT + CELL * self.moe.n_experts + 20, TOP + CELL * len(loads) + 16
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
            f"<title>Load of experts by layer</title><style>{STYLE}</style>",
            '<rect class="back" width="100%" height="100%"/>',
            f'<text x="{LEFT}" y="16">load / mean: white 0, blue 1, red 2 and more</text>',
        ]
        for group, (first, end) in zip(self.moe.groups, self.moe.bounds, strict=True):
            x = LEFT + CELL * (first + end) / 2
            parts.append(
                f'<text x="{x:.0f}" y="{TOP - 20}" text-anchor="middle">{escape(group.name)}</text>'
            )
        for expert in range(self.moe.n_experts):
            x = LEFT + CELL * expert + CELL // 2
            parts.append(f'<text x="{x}" y="{TOP - 5}" text-anchor="middle">{expert}</text>')
        for layer, row in enumerate(ratios.tolist()):
            y = TOP + CELL * layer
            parts.append(f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{layer}</text>')
            parts += [_cell(LEFT + CELL * e, y, ratio) for e, ratio in enumerate(row)]
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _by_group(self, domain: int) -> dict[str, float]:
        load = self.counts[:, domain].sum(0).double()
        shares = load / load.sum().clamp(min=1)
        return {
            group.name: float(shares[first:end].sum())
            for group, (first, end) in zip(self.moe.groups, self.moe.bounds, strict=True)
        }


@torch.inference_mode()
def measure_load(
    model: Transformer,
    windows: Iterable[tuple[Sequence[Sequence[int]], int | None]],
    on_window: Callable[[int], None] | None = None,
) -> ExpertLoad:
    """Read texts, and count where their tokens go. What was counted before is forgotten.

    Args:
        model: A mixture, in eval.
        windows: Batches of equally long texts as token ids, each with its domain, by which tokens
            are counted; the gate is not told, and chooses among all experts. None: unknown.
        on_window: Told after each batch how many there were.

    Raises:
        ConfigError: The model is dense.
    """
    layers = mixtures_of(model)
    assert model.config.moe is not None
    total = ExpertLoad(model.config.moe, len(layers))
    for layer in layers:
        layer.take_load()
    device = next(model.parameters()).device
    for number, (batch, domain) in enumerate(windows):
        model.hidden_states(torch.tensor([list(ids) for ids in batch], device=device))
        for place, layer in enumerate(layers):
            total.counts[place, -1 if domain is None else domain] += layer.take_load().sum(0).cpu()
        if on_window:
            on_window(number + 1)
    return total


def mixtures_of(model: Transformer) -> list[MoELayer]:
    """The mixtures of all layers.

    Raises:
        ConfigError: The model is dense.
    """
    found = []
    for block in model.blocks:
        assert isinstance(block, Block)
        if not isinstance(block.feed_forward, MoELayer):
            raise ConfigError("the model has no experts", "make a mixture of it: deepseek upcycle")
        found.append(block.feed_forward)
    return found


def _mean(several: Sequence[Figures]) -> dict[str, Any]:
    return {
        name: sum(getattr(f, name) for f in several) / len(several) for name in Figures.__slots__
    }


def _cell(x: int, y: int, ratio: float) -> str:
    """White to blue up to the mean load, on to red up to twice that."""
    low, high = ((255, 255, 255), (76, 120, 168)) if ratio <= 1 else ((76, 120, 168), (200, 40, 40))
    share = ratio if ratio <= 1 else min(ratio - 1, 1.0)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    size = CELL - 2
    return (
        f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="rgb({red},{green},{blue})">'
        f"<title>{ratio:.2f}</title></rect>"
    )
