"""What a pass is trained on: next tokens, preferences, or rewards.

Every objective sends the gradient of a sum of terms into the head and the hidden states; the loop
divides by the terms of the whole step, so that it does not matter how many windows go into a pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor

from deepseek.data.packed import PackedRow, Window
from deepseek.train.loss import LossSums, backward_from_logits, token_nats

Project = Callable[[Tensor], Tensor]
"""Hidden states to logits."""


@runtime_checkable
class Objective(Protocol):
    """What is summed over a step."""

    def n_terms(self, windows: Sequence[Window]) -> int:
        """Terms of some windows, by whose number sums are divided."""
        ...

    def backward(
        self,
        project: Project,
        hidden: Float[Tensor, "1 N D"],
        row: PackedRow,
        windows: Sequence[Window],
        *,
        n_sources: int,
        scale: float,
    ) -> LossSums:
        """Sums of a pass, and the gradient of `scale` times them."""
        ...

    def measures(self) -> dict[str, float]:
        """What else there is to say of the passes since the last call."""
        ...


@dataclass(frozen=True, slots=True)
class NextToken:
    """Cross entropy of the labelled tokens."""

    z_loss: float = 0.0

    def n_terms(self, windows: Sequence[Window]) -> int:
        """Labelled tokens."""
        return sum(window.n_labels for window in windows)

    def backward(
        self,
        project: Project,
        hidden: Float[Tensor, "1 N D"],
        row: PackedRow,
        windows: Sequence[Window],
        *,
        n_sources: int,
        scale: float,
    ) -> LossSums:
        """See `backward_from_logits`."""
        return backward_from_logits(
            project,
            hidden,
            row.labels,
            row.sources,
            n_sources,
            scale=scale,
            z_loss=self.z_loss,
        )

    def measures(self) -> dict[str, float]:
        """Nothing else."""
        return {}


@dataclass(frozen=True, slots=True)
class Pair(Window):
    """A better and a worse answer to one prompt, as two pieces."""

    references: tuple[float, float] = (0.0, 0.0)
    """Log-probability of each under the model before training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceSettings:
    """Of DPO."""

    beta: float = 0.1
    """How fast what is learned may leave the reference: the lower, the further."""
    smoothing: float = 0.0
    """Share of pairs whose order is taken to be wrong (conservative DPO)."""


def preference_loss(
    margins: Float[Tensor, " W"], smoothing: float
) -> tuple[Float[Tensor, " W"], Float[Tensor, " W"]]:
    """Loss by pair, and its derivative by the margin.

    Args:
        margins: beta times how much more the better answer gained than the worse one.
        smoothing: See `PreferenceSettings`.
    """
    losses = -(1 - smoothing) * F.logsigmoid(margins) - smoothing * F.logsigmoid(-margins)
    return losses, smoothing * margins.sigmoid() - (1 - smoothing) * (-margins).sigmoid()


class Preference:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290).

    The loss of a pair depends on all tokens of both answers, so logits are made twice: once to
    know the margins, and once for the gradient, which is that of weighted cross entropies.
    """

    def __init__(self, settings: PreferenceSettings) -> None:
        self._settings = settings
        self._sums = torch.zeros(3, dtype=torch.float64)

    def n_terms(self, windows: Sequence[Window]) -> int:
        """Pairs."""
        return len(windows)

    def backward(
        self,
        project: Project,
        hidden: Float[Tensor, "1 N D"],
        row: PackedRow,
        windows: Sequence[Window],
        *,
        n_sources: int,
        scale: float,
    ) -> LossSums:
        """Sums over pairs."""
        logprobs = piece_logprobs(token_nats(project, hidden.detach(), row.labels), row)
        known = torch.tensor([w.references for w in windows if isinstance(w, Pair)])
        gains = logprobs.view(-1, 2) - known.to(logprobs)
        margins = self._settings.beta * (gains[:, 0] - gains[:, 1])
        losses, slopes = preference_loss(margins, self._settings.smoothing)
        # Of a token's cross entropy: the loss by the margin, times the margin by minus it.
        sides = torch.stack([-slopes, slopes], 1).flatten() * self._settings.beta
        weights = sides[piece_numbers(row)].float()
        sums = backward_from_logits(
            project,
            hidden,
            row.labels,
            row.sources,
            n_sources,
            scale=scale,
            terms=lambda nats, places: nats * weights[places],
        )
        sources = torch.tensor([w.source for w in windows], device=hidden.device)
        nats = torch.zeros_like(sums.nats).index_add_(0, sources, losses)
        facts = torch.stack([(margins > 0).double(), margins, torch.ones_like(margins)])
        self._sums += facts.sum(1).cpu()
        return replace(sums, nats=nats, counts=torch.bincount(sources, minlength=n_sources))

    def measures(self) -> dict[str, float]:
        """Share of pairs in the right order, and the mean margin."""
        right, margin, n = self._sums.tolist()
        self._sums.zero_()
        return {"accuracy": right / n, "margin": margin / n} if n else {}


@dataclass(frozen=True, slots=True)
class Sample(Window):
    """An answer of the model itself to a prompt, and how good it was."""

    advantage: float = 0.0
    logprobs: tuple[float, ...] = ()
    """Of its tokens when it was made; empty: as the model is now."""
    references: tuple[float, ...] = ()
    """Of its tokens under the model before training, where a divergence costs something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSettings:
    """Of the policy's loss."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    """Higher than `clip_low`, so that rare tokens can become likely (DAPO)."""
    divergence: float = 0.0
    """What the divergence from the model before training costs, in each token."""
    level: Literal["token", "answer"] = "token"
    """`token`: every token counts the same; `answer`: every answer does (GRPO's first form)."""


def policy_loss(
    logprobs: Float[Tensor, " n"],
    before: Float[Tensor, " n"],
    advantages: Float[Tensor, " n"],
    settings: ClipSettings,
) -> Float[Tensor, " n"]:
    """The clipped loss of each token (Schulman et al. 2017; DAPO, arXiv:2503.14476).

    Args:
        logprobs: Of the tokens now.
        before: When they were made.
        advantages: Of their answers.
        settings: How far the ratio of both may move.
    """
    ratio = (logprobs - before).exp()
    clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


class Policy:
    """Group-relative policy optimisation with the changes of DAPO."""

    def __init__(self, settings: ClipSettings) -> None:
        self._settings = settings
        self._sums = torch.zeros(3, dtype=torch.float64)

    def n_terms(self, windows: Sequence[Window]) -> int:
        """Tokens of answers, or answers."""
        if self._settings.level == "answer":
            return len(windows)
        return sum(window.n_labels for window in windows)

    def backward(
        self,
        project: Project,
        hidden: Float[Tensor, "1 N D"],
        row: PackedRow,
        windows: Sequence[Window],
        *,
        n_sources: int,
        scale: float,
    ) -> LossSums:
        """Sums over tokens, or over answers."""
        settings = self._settings
        samples = [window for window in windows if isinstance(window, Sample)]
        numbers = piece_numbers(row)
        advantages = torch.tensor([s.advantage for s in samples], device=hidden.device)[numbers]
        before = _spread(row, [s.logprobs for s in samples])
        reference = _spread(row, [s.references for s in samples])
        shares = torch.ones_like(advantages)
        if settings.level == "answer":
            sizes = torch.tensor([s.n_labels for s in samples], device=hidden.device)
            shares = (1 / sizes.clamp(min=1))[numbers]

        def terms(nats: Tensor, places: Tensor) -> Tensor:
            now = -nats
            old = now.detach() if before is None else before[places]
            losses = policy_loss(now, old, advantages[places], settings)
            self._observe(now.detach() - old, advantages[places])
            if settings.divergence and reference is not None:
                gap = reference[places] - now
                losses = losses + settings.divergence * (gap.exp() - gap - 1)
            return losses * shares[places]

        sums = backward_from_logits(
            project, hidden, row.labels, row.sources, n_sources, scale=scale, terms=terms
        )
        if settings.level == "answer":
            sources = torch.tensor([w.source for w in windows], device=hidden.device)
            sums = replace(sums, counts=torch.bincount(sources, minlength=n_sources))
        return sums

    def measures(self) -> dict[str, float]:
        """Share of tokens whose ratio was clipped, and how far they moved (nats)."""
        clipped, moved, n = self._sums.tolist()
        self._sums.zero_()
        return {"clipped": clipped / n, "moved": moved / n} if n else {}

    def _observe(self, moved: Tensor, advantages: Tensor) -> None:
        ratio, settings = moved.exp(), self._settings
        high = (ratio > 1 + settings.clip_high) & (advantages > 0)
        low = (ratio < 1 - settings.clip_low) & (advantages < 0)
        facts = [(high | low).sum(), moved.abs().sum(), torch.tensor(len(moved))]
        self._sums += torch.stack([fact.double().cpu() for fact in facts])


def piece_numbers(row: PackedRow) -> Int[Tensor, " N"]:
    """To which piece each token belongs."""
    sizes = torch.tensor(row.lengths, device=row.labels.device)
    return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)


def piece_logprobs(nats: Float32[Tensor, " N"], row: PackedRow) -> Float[Tensor, " P"]:
    """Log-probability of the labels of each piece."""
    total = torch.zeros(len(row.lengths), dtype=torch.float64, device=nats.device)
    return total.index_add_(0, piece_numbers(row), -nats.double())


def _spread(row: PackedRow, values: Sequence[Sequence[float]]) -> Tensor | None:
    """Values of the labelled tokens of each piece at their places; None if there are none."""
    flat = [value for own in values for value in own]
    places = (row.labels >= 0).nonzero()[:, 0]
    if len(flat) != len(places):
        return None
    spread = torch.zeros(row.labels.shape, device=row.labels.device)
    spread[places] = torch.tensor(flat, device=spread.device)
    return spread
