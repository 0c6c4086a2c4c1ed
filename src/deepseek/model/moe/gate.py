"""The gate of a mixture: scores, biases, which experts a domain may use, and what is counted."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from deepseek.model.moe.budget import Budgets
from deepseek.model.moe.config import MoEConfig
from deepseek.ops.moe.balance import (
    balance_loss,
    balanced_bias,
    expert_counts,
    quantile_bias,
    z_loss,
)
from deepseek.ops.moe.gate import (
    Choice,
    best_groups,
    choose,
    chosen_scores,
    emptied,
    gate_logits,
    hashed,
    margins_of,
    normalised,
)
from deepseek.ops.moe.native import GateTensors, NativeGate, fits

NEVER = -3.0
"""A bias with which no other expert's biased score is below that of the one that does nothing."""
STEPS, FIRST_RATE = 40, 0.02
"""Of balancing on a sample, at a rate that falls to 0."""
UNKNOWN = -1
"""The domain of tokens that have no label."""


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """What gates are told of the tokens of a pass."""

    token_ids: Int[Tensor, " T"]
    domains: Int[Tensor, " T"] | None = None
    """Numbers of groups, `UNKNOWN` without a label. None: no token has one."""
    budgets: Budgets | None = None
    """Of the requests that the tokens belong to. None: they have all experts that are chosen."""


class Gate(nn.Module):
    """Chooses experts; keeps loads until they are taken."""

    null: nn.Parameter | None
    """The row of the expert that does nothing, if there is one."""
    bias: Tensor
    """Of each expert, for the choice only. Balancing moves it, no gradient."""
    null_bias: Tensor | None
    """Of the expert that does nothing, if there is one."""
    load: Tensor
    """Tokens by domain (the last row: unknown) and expert (the last column: slots left empty)
    since they were last taken."""

    def __init__(self, config: MoEConfig, d_model: int) -> None:
        super().__init__()
        self.config = config
        n = config.n_experts
        self.weight = nn.Parameter(torch.empty(n, d_model, dtype=torch.float32))
        self.register_buffer("bias", torch.zeros(n, dtype=torch.float32))
        self.register_parameter("null", None)
        self.register_buffer("null_bias", None)
        if config.budget is not None:
            self.null = nn.Parameter(torch.zeros(d_model, dtype=torch.float32))
            self.register_buffer("null_bias", torch.full((1,), NEVER))
        counts = torch.zeros(len(config.groups) + 1, n + 1, dtype=torch.int64)
        self.register_buffer("load", counts, persistent=False)
        self.loss: Tensor | None = None
        self._rules: tuple[MoEConfig, NativeGate] | None = None
        self.is_counting = True
        """Whether loads are kept; training needs them."""

    def forward(self, x: Float[Tensor, "T D"], routing: Routing) -> Choice:
        """Choose experts for tokens, and count them."""
        config = self.config
        if self.is_native(routing) and fits(x.dtype, x.device, x.shape[1]):
            choice = self.native.choose(x, self.tensors, routing.domains)
            self.note(choice, routing)
            return choice
        allowed = self.allowed(routing)
        logits = None
        if config.routing == "learned":
            logits = gate_logits(x, self.weight)
            scores, bias = logits.sigmoid(), self.bias.float()
            if allowed is None and config.n_domains:
                allowed = best_groups(
                    scores.detach() + bias, config.bounds, config.n_domains, config.always
                )
        else:
            scores, bias = self._static(routing), torch.zeros_like(self.bias)
        experts, nothing = self._choose(scores, bias, allowed), None
        if self.null is not None and self.null_bias is not None:
            nothing = gate_logits(x, self.null[None]).sigmoid()
            experts = emptied(scores + bias, experts, nothing + self.null_bias)
        if routing.budgets is not None:
            margins = margins_of(scores + bias, experts, nothing)
            experts = experts.masked_fill(~routing.budgets.keep(margins), config.n_experts)
        self._count(experts, routing.domains)
        self.loss = self._loss(scores, logits, allowed) if self.training else None
        return Choice(experts, self._weights(scores, experts, nothing))

    def is_native(self, routing: Routing) -> bool:
        """Whether the compiled library may choose, where it computes such numbers."""
        return (
            not (self.training or torch.is_grad_enabled())
            and (routing.budgets is None or routing.budgets.is_whole)
            and self.config.routing == "learned"
            and self.config.n_active_experts > 0
        )

    def note(self, choice: Choice, routing: Routing) -> None:
        """Tell those who count experts what the library has chosen."""
        if routing.budgets is not None:
            routing.budgets.note(choice.experts < self.config.n_experts)

    @property
    def native(self) -> NativeGate:
        """The same rules in the compiled library, for inference."""
        config = self.config
        if self._rules is None or self._rules[0] is not config:
            kind = "scores" if config.form == "slices" else "shares"
            gate = NativeGate(
                n_active=config.n_active_experts,
                n_parts=config.parts,
                n_domains=config.n_domains,
                kind=kind if config.parts == 1 else "ones",
                bounds=config.bounds,
                always=config.always,
                d_model=self.weight.shape[1],
            )
            self._rules = config, gate
        return self._rules[1]

    @property
    def tensors(self) -> GateTensors:
        """What the library reads of it, and the loads that it adds to."""
        parameters, buffers = self._parameters, self._buffers  # `__getattr__` takes its time
        weight, bias, load = parameters["weight"], buffers["bias"], buffers["load"]
        assert weight is not None
        assert bias is not None
        assert load is not None
        load = load if self.is_counting else None
        return GateTensors(weight, bias, load, parameters["null"], buffers["null_bias"])

    def allowed(self, routing: Routing) -> Bool[Tensor, "T E"] | None:
        """Which experts labelled tokens may go to: their domain's and those of all. None: any."""
        if routing.domains is None:
            return None
        config, n_groups = self.config, len(self.config.groups)
        table = torch.zeros(n_groups + 1, config.n_experts, dtype=torch.bool)
        for number, (first, end) in enumerate(config.bounds):
            rows = slice(None) if config.groups[number].always else [number, n_groups]
            table[rows, first:end] = True
        return table.to(routing.domains.device)[routing.domains]  # UNKNOWN is the last row

    def _choose(self, scores: Tensor, bias: Tensor, allowed: Tensor | None) -> Int[Tensor, "T K"]:
        config = self.config
        if config.parts == 1:
            return choose(scores, bias, config.n_active_experts, allowed)
        n_slots = config.n_active_experts // config.parts
        lots = [choose(scores, bias, n_slots, self._part(p, allowed)) for p in range(config.parts)]
        return torch.cat(lots, -1)

    def _part(self, part: int, allowed: Tensor | None) -> Bool[Tensor, "#T E"]:
        """Experts that are one of the parts of a layer, among the allowed ones."""
        is_part = self.part_of == part
        return is_part[None] if allowed is None else allowed & is_part

    @property
    def part_of(self) -> Int[Tensor, " E"]:
        """Which part of a layer each expert is."""
        sizes = [b - a for a, b in self.config.bounds]
        own = torch.cat([torch.arange(n, device=self.bias.device) for n in sizes])
        return own % self.config.parts

    def _weights(
        self, scores: Tensor, experts: Tensor, nothing: Tensor | None
    ) -> Float[Tensor, "T K"]:
        config = self.config
        chosen = chosen_scores(scores, experts)
        if config.form == "slices":
            return chosen
        if nothing is not None:  # it has its share of the weight, and the gate learns by that
            is_empty = experts == config.n_experts
            return normalised(torch.where(is_empty, nothing, chosen)).masked_fill(is_empty, 0.0)
        if config.parts == 1:
            return normalised(chosen)
        # Weight 1, with the gradient of the winner's share of its part (straight through).
        sums = torch.stack(
            [(scores * (self.part_of == p)).sum(-1) for p in range(config.parts)], -1
        )
        share = chosen / sums.repeat_interleave(chosen.shape[1] // config.parts, -1)
        return (experts < config.n_experts).float() + (share - share.detach())

    def _static(self, routing: Routing) -> Float[Tensor, "T E"]:
        """Scores that nothing was learned for."""
        config = self.config
        if config.routing == "hash":
            return hashed(routing.token_ids, config.n_experts)
        domains = routing.domains
        if domains is None:
            domains = torch.full_like(routing.token_ids, UNKNOWN)
        table = torch.zeros(len(config.groups) + 1, config.n_experts, device=domains.device)
        for number, (first, end) in enumerate(config.bounds):
            table[number, first:end] = 1.0
        table[-1] = table[0]
        # The first come first; others follow only where a domain has too few.
        falling = torch.linspace(1e-3, 0, config.n_experts, device=domains.device)
        return 0.01 + table[domains] + falling

    @torch.no_grad()
    def _count(self, experts: Tensor, domains: Tensor | None) -> None:
        if not self.is_counting or torch._C._current_graph_task_id() != -1:
            return  # or a checkpointed block that is computed again for its gradients
        n = self.config.n_experts + 1
        if domains is None:
            self.load[-1] += expert_counts(experts, n)
            return
        place = domains.remainder(len(self.config.groups) + 1)[:, None] * n + experts
        self.load += place.flatten().bincount(minlength=self.load.numel()).view(-1, n)

    def _loss(self, scores: Tensor, logits: Tensor | None, allowed: Tensor | None) -> Tensor | None:
        config = self.config
        if logits is None or not (config.balance_loss or config.z_loss):
            return None
        total = logits.new_zeros(())
        if config.balance_loss:
            counts = self.load.sum(0)[:-1]
            total = total + config.balance_loss * balance_loss(scores, counts, allowed)
        return total + config.z_loss * z_loss(logits) if config.z_loss else total

    @torch.no_grad()
    def update_balance(self, counts: Num[Tensor, " N"], rate: float) -> None:
        """Move biases against the loads of an optimiser step."""
        config = self.config
        if config.balance == "bias" and config.routing == "learned":
            loads = counts[: config.n_experts]
            self.bias.copy_(balanced_bias(self.bias, loads, config.bounds, rate))
        if config.budget is not None and self.null_bias is not None and bool(counts.any()):
            filled = 1 - float(counts[-1] / counts.sum())
            error = filled - config.budget / config.n_active_experts
            # The same rate at an error of a tenth, and less near the goal.
            self.null_bias += rate * max(-1.0, min(1.0, 10 * error))

    @torch.no_grad()
    def warm_start(self, x: Float[Tensor, "T D"], domains: Int[Tensor, " T"] | None = None) -> None:
        """Set biases so that experts get equal shares of a sample, of their domain's tokens."""
        config, n_tokens = self.config, x.shape[0]
        scores = gate_logits(x, self.weight).sigmoid()
        known = None
        if domains is not None:
            known = self.allowed(Routing(torch.zeros_like(domains), domains))
        may = torch.ones_like(scores, dtype=torch.bool) if known is None else known
        shares = (max(1, config.n_active_experts) / may.sum(1).clamp(min=1)).clamp(max=1)
        for expert in range(config.n_experts):
            own = may[:, expert] if bool(may[:, expert].any()) else may.new_ones(n_tokens)
            share = float(shares[own].mean())
            self.bias[expert] = quantile_bias(scores[own, expert, None], share)[0]
        # Quantiles balance experts one by one; what they take from each other, only choices show.
        for step in range(STEPS):
            counts = expert_counts(self._choose(scores, self.bias, known), config.n_experts)
            rate = FIRST_RATE * (1 - step / STEPS)
            self.bias.copy_(balanced_bias(self.bias, counts, config.bounds, rate))
        self.start_budget(x, known)

    @torch.no_grad()
    def start_budget(
        self, x: Float[Tensor, "T D"], allowed: Bool[Tensor, "T E"] | None = None
    ) -> None:
        """Let the expert that does nothing take as many slots of a sample as the budget says."""
        config = self.config
        if config.budget is None or self.null is None or self.null_bias is None:
            return
        biased = gate_logits(x, self.weight).sigmoid() + self.bias
        if allowed is not None:
            biased = biased.masked_fill(~allowed, -torch.inf)
        best = biased.topk(config.n_active_experts, -1).values
        margins = (best - gate_logits(x, self.null[None]).sigmoid()).flatten().sort().values
        n_empty = round((1 - config.budget / config.n_active_experts) * len(margins))
        self.null_bias.fill_(float(margins[n_empty - 1]) if n_empty else NEVER)
