"""The training loop: steps, checkpoints, evaluation. A killed run goes on where it was."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek.adapt.isolation import Kept
from deepseek.core.errors import CheckpointError, TrainingError
from deepseek.core.log import LOGGER
from deepseek.data.packed import Window, pack
from deepseek.data.sampler import Sampler
from deepseek.model.packed import PackedCache
from deepseek.model.transformer import Transformer
from deepseek.train.balance import Balance
from deepseek.train.evaluation import HeldOut
from deepseek.train.metrics import MetricsFile
from deepseek.train.objective import NextToken, Objective
from deepseek.train.optimiser import Optimiser, OptimiserSettings
from deepseek.train.pieces import is_sharded
from deepseek.train.plan import Plan
from deepseek.train.ranks import Ranks
from deepseek.train.schedule import balance_rate
from deepseek.train.state import Checkpoints
from deepseek.train.subset import Mask

REMEMBERED = 32
"""Lengths of gradients that tell what is usual. Those of steps that were left out are among them: a
level that stays is no spike, and at most half as many steps in a row are left out."""
FEWEST = 16
"""Before so many steps nothing counts as a spike."""
NOT_FINITE = "not finite"
MAX_BAD = 3
"""Steps in a row without finite numbers after which a run ends."""

OnStep = Callable[[dict[str, Any]], None]
"""Called with what is written to the metrics after each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """Of the loop; `Plan` has the stages."""

    micro: int
    dtype: torch.dtype
    clip: float
    spike: float
    z_loss: float
    evaluate_every: int
    save_every: int
    keep: int


class Trainer:
    """One run in a folder: `checkpoints/` and `metrics.jsonl`."""

    def __init__(
        self,
        model: Transformer,
        sampler: Sampler,
        plan: Plan,
        settings: LoopSettings,
        optimiser: OptimiserSettings,
        out: Path,
        *,
        mask: Mask | None = None,
        domains: Sequence[int] | None = None,
        kept: Kept | None = None,
        objective: Objective | None = None,
        held_out: HeldOut | None = None,
        identity: Mapping[str, Any] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Prepare a run from its beginning; `resume` goes on with one.

        Args:
            model: With float32 weights.
            sampler: Where windows come from.
            plan: Stages and steps.
            settings: Of the loop.
            optimiser: Its settings.
            out: The run's folder.
            mask: What may change; None for everything.
            domains: The group of experts of each of the sampler's sources, -1 where the gate
                chooses; None: it always does.
            kept: Puts back after each step what may not change and is no parameter.
            objective: What is trained on; None: the next token.
            held_out: What is evaluated.
            identity: Settings and data that a resumed run must share.
            ranks: Processes that train together.

        Raises:
            ConfigError: The mask does not fit the model.
        """
        self.model, self.plan, self.settings, self.out = model, plan, settings, out
        self.step = 0
        """Steps that are done."""
        self.stop_requested = False
        """Set it from a signal: the run saves its state and ends after the step."""
        self.sampler = sampler
        self.checkpoints = Checkpoints(out / "checkpoints", settings.keep)
        self._optimiser = Optimiser(model, mask or Mask.everything(model), optimiser)
        self._balance = Balance(model)
        self._kept = kept
        self._objective = objective or NextToken(settings.z_loss)
        self._held_out, self._identity = held_out, dict(identity or {})
        self._ranks = ranks or Ranks()
        self._device = next(model.parameters()).device
        self._domains = None if domains is None else torch.tensor(domains, device=self._device)
        self._metrics = MetricsFile(out / "metrics.jsonl")
        self._norms: list[float] = []
        self._n_bad = 0
        self._n_tokens = 0
        self.sampler.begin(plan.stages[0].mix)

    def resume(self) -> bool:
        """Go on from the last checkpoint; False if there is none.

        Raises:
            CheckpointError: It is damaged, or belongs to other settings or data.
        """
        steps = self.checkpoints.steps()
        if not steps:
            return False
        saved = self.checkpoints.load(steps[-1])
        facts = saved.facts
        try:
            check_identity(facts["identity"], self._identity, saved.path)
            saved.restore(self.model, self._optimiser)
            self.step, self._norms, self._n_bad = facts["step"], facts["norms"], facts["n_bad"]
            self._n_tokens = facts["tokens"]
            self.sampler.begin(self.plan.stages[facts["stage"]].mix)
            self.sampler.resume(facts["sampler"])
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{saved.path} lacks a part of the run's state: {error!r}", "remove it"
            ) from None
        if self._ranks.is_first:
            self._metrics.rewind(self.step)
        return True

    def run(self, on_step: OnStep | None = None) -> None:
        """Take the steps that are left.

        Raises:
            TrainingError: Numbers are not finite any more.
            CheckpointError: A checkpoint or the metrics cannot be written.
        """
        self.model.train()
        with deterministic():
            if self.step == 0 and not self.checkpoints.steps():
                self._begin()
            while self.step < self.plan.n_steps:
                row = self._take_step()
                is_stopping = self._ranks.any(self.stop_requested)
                if self._is_due(self.settings.evaluate_every):
                    row["bits_per_byte"], row["experts_held_out"] = self._evaluate()
                if self._ranks.is_first:
                    self._metrics.append(row)
                if self._is_due(self.settings.save_every) or is_stopping:
                    self._save()
                if on_step:
                    on_step(row)
                if is_stopping:
                    break
        self.model.eval()

    @property
    def is_done(self) -> bool:
        """Whether all steps are taken."""
        return self.step == self.plan.n_steps

    def evaluate(self) -> dict[str, float]:
        """Bits per byte of the held-out sets with the weights as they are."""
        return self._evaluate()[0]

    def _begin(self) -> None:
        bits, experts = self._evaluate()  # on all ranks: they may share the weights
        if self._ranks.is_first:
            self.out.mkdir(parents=True, exist_ok=True)
            self._metrics.rewind(-1)
            first: dict[str, Any] = {"step": 0, "tokens": 0, "bits_per_byte": bits}
            first["experts_held_out"] = experts
            self._metrics.append(first)

    def _is_due(self, every: int) -> bool:
        ends = {stage.end for stage in self.plan.stages}
        return self.step % every == 0 or self.step in ends

    def _take_step(self) -> dict[str, Any]:
        """One step of the optimiser; what the metrics say of it."""
        start, number = time.perf_counter(), self.step
        stage = self.plan.stage_of(number)
        if number == stage.start and number:
            self.sampler.begin(stage.mix)
        windows = [self.sampler.draw() for _ in range(self.plan.batch)]
        nats, counts, auxiliary = self._passes(windows)
        norm = self._optimiser.take_gradients()
        loss = float(nats.sum()) / max(1, int(counts.sum()))
        problem = self._problem(loss, norm)
        factor = self.plan.rate_factor(number)
        experts = self._balance.take()
        self._ranks.sum(experts)
        if problem is None:
            if norm > self.settings.clip:
                self._optimiser.scale_gradients(self.settings.clip / (norm + 1e-6))
            self._optimiser.step(factor)
            if rate := balance_rate(number, self.plan.n_steps):
                self._balance.update(experts, rate)
            if self._kept is not None:
                self._kept.restore()
        if problem != NOT_FINITE:
            self._norms = [*self._norms, norm][-REMEMBERED:]
        self._optimiser.clear()
        losses = {
            name: float(n) / int(count)
            for name, n, count in zip(self.sampler.names, nats, counts, strict=True)
            if count
        }
        shares = self.sampler.shares()
        self.sampler.observe(losses)
        self.step = number + 1
        seconds = time.perf_counter() - start
        n_tokens = sum(window.n_tokens for window in windows)
        self._n_tokens += n_tokens
        measures = self.sampler.measures() | self._objective.measures()
        return {
            "step": self.step,
            "stage": stage.name,
            "tokens": self._n_tokens,
            "loss": loss,
            "losses": losses,
            "auxiliary": auxiliary,
            "experts": self._balance.report(experts),
            "rate": self.plan.rate * factor,
            "norm": norm,
            "skipped": problem,
            "weights": shares,
            "realised": self.sampler.realised(),
            "seconds": seconds,
            "tokens_per_second": n_tokens / seconds,
        } | ({"measures": measures} if measures else {})

    def _passes(self, windows: list[Window]) -> tuple[Tensor, Tensor, float]:
        """Gradients of a step, and sums of loss and terms (labels, say) by source.

        The sum over all terms is divided by their number in the whole step, so that it does not
        matter how many windows go into a pass.
        """
        n_terms = max(1, self._objective.n_terms(windows))
        own = windows[self._ranks.rank :: self._ranks.size]
        n_sources = len(self.sampler.names)
        nats = torch.zeros(n_sources, dtype=torch.float64, device=self._device)
        counts = torch.zeros(n_sources, dtype=torch.int64, device=self._device)
        auxiliary = torch.zeros((), dtype=torch.float64, device=self._device)
        for first in range(0, len(own), self.settings.micro):
            part = own[first : first + self.settings.micro]
            row = pack(part, self._device)
            with self._autocast():
                cache = PackedCache(row.lengths, self._device)
                domains = None if self._domains is None else self._domains[row.sources][None]
                hidden = self.model.hidden_states(row.ids, cache, domains=domains)
                extra = self._balance.auxiliary_loss()
                self._balance.collect()
                sums = self._objective.backward(
                    lambda x: self.model.head(self.model.norm(x)),
                    hidden,
                    row,
                    part,
                    n_sources=n_sources,
                    scale=1 / n_terms,
                )
            ends = [(hidden, sums.gradient)]
            if extra is not None:
                share = len(part) / len(windows)
                ends.append((extra, torch.full_like(extra, share)))
                auxiliary += share * extra.detach().double()
            ends = [pair for pair in ends if pair[0].requires_grad]
            if ends:
                tensors, gradients = zip(*ends, strict=True)
                torch.autograd.backward(tensors, gradients)
            self._balance.drop()
            nats += sums.nats
            counts += sums.counts
        self._ranks.sum_gradients(self.model)
        self._ranks.sum((nats, counts, auxiliary))
        return nats, counts, float(auxiliary)

    def _problem(self, loss: float, norm: float) -> str | None:
        """Why a step is left out, if it is.

        Raises:
            TrainingError: Too many steps in a row have no finite numbers.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._n_bad += 1
            if self._n_bad >= MAX_BAD:
                raise TrainingError(
                    f"loss or gradient is not finite in {MAX_BAD} steps up to step {self.step + 1}",
                    "the last checkpoint is whole: use a lower optimiser.rate, or run.dtype "
                    '"float32", in a new run',
                )
            LOGGER.warning("step %d left out: loss %s, gradient %s", self.step + 1, loss, norm)
            return NOT_FINITE
        self._n_bad = 0
        spike = self.settings.spike
        if spike and len(self._norms) >= FEWEST and norm > spike * statistics.median(self._norms):
            LOGGER.warning("step %d left out: gradient of length %.3g", self.step + 1, norm)
            return "spike"
        return None

    def _evaluate(self) -> tuple[dict[str, float], dict[str, Any] | None]:
        """Bits per byte, and what experts were used for it."""
        if self._held_out is None:
            return {}, None
        self.model.eval()
        found = self._held_out.bits_per_byte(self.model, self.settings.dtype)
        self._balance.collect()
        experts = self._balance.report(self._balance.take())
        self.model.train()
        return found, experts

    def _save(self) -> None:
        facts = {
            "identity": self._identity,
            "step": self.step,
            "stage": self.plan.stages.index(self.plan.stage_of(self.step - 1)),
            "sampler": self.sampler.state(),
            "norms": self._norms,
            "n_bad": self._n_bad,
            "tokens": self._n_tokens,
        }
        if self._ranks.is_first or is_sharded(self.model):
            self.checkpoints.save(self.step, self.model, self._optimiser, facts)
        self._ranks.wait()

    def _autocast(self) -> torch.autocast:
        dtype = self.settings.dtype
        return torch.autocast(self._device.type, dtype, enabled=dtype is not torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    """A block in which torch chooses algorithms that always give the same bits."""
    before = torch.are_deterministic_algorithms_enabled()
    settings: Any = torch.utils.deterministic
    fills = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fills


def check_identity(saved: Mapping[str, Any], own: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on with a run that was begun otherwise.

    Raises:
        CheckpointError: Settings or data differ; the first differences are named.
    """
    names = [n for n in {**saved, **own} if saved.get(n) != own.get(n)]
    if names:
        shown = ", ".join(f"{n} was {saved.get(n)!r}, is {own.get(n)!r}" for n in names[:3])
        raise CheckpointError(
            f"{path} belongs to a run with other settings or data: {shown}"[:600],
            "resume with what it was begun with, or choose another --out",
        )
