"""Chooses the next token from logits."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from deepseek.core.llm import SamplingParams


class Sampler:
    """Penalty, temperature, then top-k, top-p and min-p, then a seeded draw.

    With temperature 0 the most likely token is taken and nothing is drawn.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self._generator = torch.Generator()
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed)

    def choose(self, logits: Float[Tensor, " V"], seen: set[int]) -> int:
        """Pick a token.

        Args:
            logits: Scores of the whole vocabulary, any float dtype.
            seen: Tokens of prompt and answer so far, for the repetition penalty.
        """
        scores = penalise(logits.float(), seen, self.params.repetition_penalty)
        if self.params.temperature == 0:
            return int(scores.argmax())
        values, ids = self._candidates(scores)
        probabilities = values.softmax(-1)
        keep = _nucleus(probabilities, self.params.top_p)
        keep &= probabilities >= self.params.min_p * probabilities[0]
        keep[0] = True
        probabilities = probabilities * keep
        drawn = torch.multinomial(probabilities.cpu(), 1, generator=self._generator)
        return int(ids[int(drawn)])

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Scores over temperature, best first, at most `top_k` of them."""
        k = min(self.params.top_k or scores.shape[0], scores.shape[0])
        values, ids = scores.topk(k)
        # Subtracting the maximum first keeps tiny temperatures from overflowing.
        return (values - values[0]) / self.params.temperature, ids


def penalise(logits: Float[Tensor, " V"], seen: set[int], penalty: float) -> Float[Tensor, " V"]:
    """Divide positive and multiply negative scores of tokens that occurred (CTRL, 2019, §4.1)."""
    if penalty == 1.0 or not seen:
        return logits
    ids = torch.tensor(sorted(seen), device=logits.device)
    scores = logits[ids]
    changed = logits.clone()
    changed[ids] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return changed


def top_logprobs(
    logits: Float[Tensor, " V"], token_id: int, n_top: int
) -> tuple[float, list[tuple[int, float]]]:
    """The chosen token's log-probability and the `n_top` likeliest with theirs, in nats.

    They are the model's own: before penalty, temperature and truncation.
    """
    wide = logits.float()
    total = float(wide.logsumexp(-1))
    values, ids = wide.topk(min(n_top, wide.shape[0]))
    top = [(int(i), float(v) - total) for i, v in zip(ids, values, strict=True)]
    return max(float(wide[token_id]) - total, -math.inf), top


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """True for the smallest set of leading tokens whose mass reaches `top_p`."""
    if top_p >= 1:
        return torch.ones_like(probabilities, dtype=torch.bool)
    before = probabilities.cumsum(-1) - probabilities
    return before < top_p
