"""How busy a running model's experts are, at any time: totals, and what was lately.

Gates count what they choose in any case; a meter looks at these counts and changes nothing, so
that it costs something only when it is read. It keeps two tables of loads, however long it runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from deepseek.model.moe.load import figures, mixtures_of
from deepseek.model.transformer import Transformer

HALF_LIFE = 100_000
"""Tokens after which what was counted weighs half in what was lately."""
GAUGES = ("entropy", "u_entropy", "u_busy", "max_vio", "cv", "dead", "per_token")


@dataclass(frozen=True, slots=True)
class Gauge:
    """One figure, as monitoring systems have them."""

    name: str
    labels: dict[str, str]
    value: float


class LoadMeter:
    """Of one model with experts. `read` it as often as wanted; `stop` and `start` the counting."""

    def __init__(self, model: Transformer, *, half_life: int = HALF_LIFE) -> None:
        """Begin at zero.

        Args:
            model: A mixture. What trains it takes counts away, and the meter goes on all the same.
            half_life: Of what was lately, in tokens.

        Raises:
            ConfigError: The model is dense.
        """
        self._layers = mixtures_of(model)
        self._half_life = half_life
        moe = self._layers[0].gate.config
        self._moe = moe
        self._names = [*(group.name for group in moe.groups), "unknown"]
        self._seen = [layer.gate.load.clone() for layer in self._layers]
        shape = (len(self._layers), *self._seen[0].shape)
        self.total = torch.zeros(shape, dtype=torch.float64)
        """Slots by layer, domain (the last: unknown) and expert (the last: left empty)."""
        self.lately = torch.zeros(shape, dtype=torch.float64)
        """The same, with what is older weighing less."""

    @property
    def is_counting(self) -> bool:
        """Whether gates count."""
        return self._layers[0].gate.is_counting

    def start(self) -> None:
        """Count from now on."""
        for place, layer in enumerate(self._layers):
            layer.gate.is_counting = True
            # The native decoder counts all the while: what came since `stop` is left out.
            self._seen[place] = layer.gate.load.clone()

    def stop(self) -> None:
        """Count no longer."""
        self._look()
        for layer in self._layers:
            layer.gate.is_counting = False

    def read(self) -> dict[str, Any]:
        """Figures of all that was counted and of what was lately, ready for JSON."""
        self._look()
        return {
            "experts": self._moe.n_experts,
            "slots": self._moe.n_active_experts,
            "tokens": self._tokens(self.total),
            "total": self._report(self.total),
            "lately": self._report(self.lately),
        }

    def gauges(self) -> Iterator[Gauge]:
        """Figures of what was lately by layer and domain, for a server's metrics."""
        self._look()
        for domain, name in (*enumerate(self._names), (None, "all")):
            for layer, load in enumerate(self._of(self.lately, domain)):
                if not load.sum():
                    continue
                labels = {"layer": str(layer), "domain": name}
                for figure, value in self._figures(load).items():
                    yield Gauge(f"expert_{figure}", labels, value)

    def _look(self) -> None:
        """Take in what gates have counted since."""
        if not self.is_counting:
            return
        news = []
        for place, layer in enumerate(self._layers):
            now = layer.gate.load.clone()
            new = now - self._seen[place]
            # Less than before: somebody took counts away meanwhile.
            news.append((now if bool((new < 0).any()) else new).cpu())
            self._seen[place] = now
        fresh = torch.stack(news).double()
        n_tokens = self._tokens(fresh)
        self.total += fresh
        self.lately = self.lately * 0.5 ** (n_tokens / self._half_life) + fresh

    def _tokens(self, counts: Tensor) -> int:
        slots = max(1, self._moe.n_active_experts)
        return round(float(counts.sum((1, 2)).max()) / slots)

    @staticmethod
    def _of(counts: Tensor, domain: int | None) -> Float[Tensor, "L E"]:
        return counts.sum(1) if domain is None else counts[:, domain]

    def _report(self, counts: Tensor) -> dict[str, Any]:
        layers = [self._figures(load) for load in self._of(counts, None)]
        return {
            "mean": {name: sum(f[name] for f in layers) / len(layers) for name in GAUGES},
            "layers": layers,
            "domains": {
                name: [self._figures(load) for load in counts[:, domain]]
                for domain, name in enumerate(self._names)
                if float(counts[:, domain].sum())
            },
        }

    def _figures(self, load: Float[Tensor, " E"]) -> dict[str, float]:
        """Of one layer; the last number are slots left empty."""
        chosen, slots = load[:-1], float(load.sum())
        shares = chosen / chosen.sum().clamp(min=1e-9)
        found = figures(chosen)
        return {
            "entropy": float(torch.special.entr(shares).sum()),
            "u_entropy": found.u_entropy,
            "u_busy": found.u_busy,
            "max_vio": found.max_vio,
            "cv": found.cv,
            "dead": float(round(found.dead * len(chosen))),
            "per_token": self._moe.n_active_experts * float(chosen.sum()) / max(slots, 1e-9),
        }
