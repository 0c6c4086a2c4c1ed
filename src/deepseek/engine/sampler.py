"""Chooses the next token from logits."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deepseek.core.llm import SamplingParams


class Sampler:
    """Bias and penalties, temperature, then top-k, top-p and min-p, then a seeded draw.

    With temperature 0 the most likely token is taken and nothing is drawn. Each request has a
    sampler with a generator of its own: what runs beside it changes nothing.
    """

    def __init__(self, params: SamplingParams, prompt: Iterable[int] = ()) -> None:
        """Begin an answer.

        Args:
            params: How to choose.
            prompt: Its tokens, for the repetition penalty.
        """
        self.params = params
        self._seen = set(prompt) if params.repetition_penalty != 1 else set()
        self._counts: Counter[int] = Counter()
        self._generator = torch.Generator()
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed)

    def note(self, token_id: int) -> None:
        """Count a token of the answer, for the penalties."""
        if self.params.repetition_penalty != 1:
            self._seen.add(token_id)
        if self.params.frequency_penalty or self.params.presence_penalty:
            self._counts[token_id] += 1

    def choose(self, logits: Float[Tensor, " V"], allowed: Bool[Tensor, " V"] | None = None) -> int:
        """Pick a token.

        Args:
            logits: Scores of the whole vocabulary, any float dtype.
            allowed: Which tokens may be picked, at least one; None: all.
        """
        scores = self._scores(logits.float())
        if allowed is not None:
            scores = scores.masked_fill(~allowed.to(scores.device), -math.inf)
        if self.params.temperature == 0:
            return int(scores.argmax())
        probabilities, ids = candidates(scores, self.params)
        # A search in the running sum: torch.multinomial takes far longer on 150,000 tokens.
        sums = probabilities.double().cumsum(-1).cpu()
        point = torch.rand(1, generator=self._generator, dtype=torch.float64) * sums[-1]
        index = torch.searchsorted(sums, point, right=True).clamp(max=len(sums) - 1)
        return int(ids[int(index)])

    def _scores(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        params = self.params
        scores = add_bias(logits, params.logit_bias)
        scores = penalise(scores, self._seen, params.repetition_penalty)
        return add_bias(
            scores,
            {
                token_id: -params.presence_penalty - count * params.frequency_penalty
                for token_id, count in self._counts.items()
            },
        )


def candidates(
    scores: Float[Tensor, " V"], params: SamplingParams
) -> tuple[Float[Tensor, " N"], Int[Tensor, " N"]]:
    """Tokens that may be drawn: their probabilities, which sum to 1, and their ids."""
    ids = torch.arange(len(scores), device=scores.device)
    if params.top_k:
        scores, ids = scores.topk(min(params.top_k, len(scores)))
    # Subtracting the maximum first keeps tiny temperatures from overflowing.
    probabilities = ((scores - scores.max()) / params.temperature).softmax(-1)
    keep = probabilities >= params.min_p * probabilities.max()
    if params.top_p < 1:
        keep &= _nucleus(probabilities, params.top_p)
    kept = probabilities[keep]
    return kept / kept.sum(), ids[keep]


def penalise(logits: Float[Tensor, " V"], seen: set[int], penalty: float) -> Float[Tensor, " V"]:
    """Divide positive and multiply negative scores of tokens that occurred (CTRL, 2019, §4.1)."""
    if penalty == 1.0 or not seen:
        return logits
    ids = torch.tensor(sorted(seen), device=logits.device)
    scores = logits[ids]
    changed = logits.clone()
    changed[ids] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return changed


def add_bias(logits: Float[Tensor, " V"], bias: Mapping[int, float]) -> Float[Tensor, " V"]:
    """Add to the scores of some tokens by id."""
    if not bias:
        return logits
    ids = torch.tensor(list(bias), device=logits.device)
    values = torch.tensor(list(bias.values()), dtype=logits.dtype, device=logits.device)
    return logits.index_add(0, ids, values)


def top_logprobs(
    logits: Float[Tensor, " V"], token_id: int, n_top: int
) -> tuple[float, list[tuple[int, float]]]:
    """The chosen token's log-probability and the `n_top` likeliest with theirs, in nats.

    They are the model's own: before bias, penalties, constraint, temperature and truncation.
    """
    wide = logits.float()
    total = float(wide.logsumexp(-1))
    values, ids = wide.topk(min(n_top, wide.shape[0]))
    top = [(int(i), float(v) - total) for i, v in zip(ids, values, strict=True)]
    return max(float(wide[token_id]) - total, -math.inf), top


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """True for the smallest set of likeliest tokens whose mass reaches `top_p`."""
    # Tokens below this bound weigh less than 1 - top_p together, so none of them is needed;
    # leaving them out of the sort makes it many times shorter.
    likely = (probabilities >= (1 - top_p) / len(probabilities)).nonzero().squeeze(-1)
    values, order = probabilities[likely].sort(descending=True, stable=True)
    needed = values.cumsum(-1) - values < top_p
    keep = torch.zeros_like(probabilities, dtype=torch.bool)
    keep[likely[order[needed]]] = True
    return keep
