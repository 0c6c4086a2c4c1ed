"""Chooses the next token from logits.

In NumPy: it takes one thread for what torch shares out among those that compute the next pass.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from numpy import ndarray
from torch import Tensor

from deepseek.core.llm import SamplingParams

BLOCK = 64
"""Tokens of which the best is looked at first, to find the best of all."""
FIRST_LOOKS = (1e-3, 1e-5, 0.0)
"""Shares of the whole of which tokens weigh at least as much that are looked at for the nucleus."""
COLDEST = 1e-30
"""Temperatures below it would not be numbers in single precision; they choose as it does."""


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
        scores = self._scores(_numbers(logits))
        if allowed is not None:
            scores = np.where(allowed.numpy(force=True), scores, np.float32(-math.inf))
        if self.params.temperature == 0:
            return int(scores.argmax())
        probabilities, ids = candidates(scores, self.params)
        share = float(torch.rand(1, generator=self._generator, dtype=torch.float64))
        return int(ids[_drawn(probabilities, share)])

    def _scores(self, logits: Float32[ndarray, " V"]) -> Float32[ndarray, " V"]:
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
    scores: Float32[ndarray, " V"], params: SamplingParams
) -> tuple[Float32[ndarray, " N"], Int[ndarray, " N"]]:
    """Tokens that may be drawn: their probabilities, which sum to 1, and their ids, in order."""
    ids = None
    if params.top_k:
        ids = _largest(scores, params.top_k)
        scores = scores[ids]
    # Subtracting the maximum first keeps tiny temperatures from overflowing; it weighs 1.
    weights = np.exp((scores - scores.max()) / np.float32(max(params.temperature, COLDEST)))
    if params.top_p < 1:
        kept = _nucleus(weights, params.top_p)
        weights, ids = weights[kept], kept if ids is None else ids[kept]
    if params.min_p > 0:
        kept = np.flatnonzero(weights >= np.float32(params.min_p))
        weights, ids = weights[kept], kept if ids is None else ids[kept]
    return weights / weights.sum(), np.arange(len(weights)) if ids is None else ids


def penalise(
    logits: Float32[ndarray, " V"], seen: set[int], penalty: float
) -> Float32[ndarray, " V"]:
    """Divide positive and multiply negative scores of tokens that occurred (CTRL, 2019, §4.1)."""
    if penalty == 1.0 or not seen:
        return logits
    ids = np.array(sorted(seen))
    changed, scores, factor = logits.copy(), logits[ids], np.float32(penalty)
    changed[ids] = np.where(scores > 0, scores / factor, scores * factor)
    return changed


def add_bias(logits: Float32[ndarray, " V"], bias: Mapping[int, float]) -> Float32[ndarray, " V"]:
    """Add to the scores of some tokens by id."""
    if not bias:
        return logits
    changed = logits.copy()
    changed[list(bias)] += np.array(list(bias.values()), dtype=np.float32)
    return changed


def top_logprobs(
    logits: Float[Tensor, " V"], token_id: int, n_top: int
) -> tuple[float, list[tuple[int, float]]]:
    """The chosen token's log-probability and the `n_top` likeliest with theirs, in nats.

    They are the model's own: before bias, penalties, constraint, temperature and truncation.
    """
    scores = _numbers(logits)
    most = scores.max()
    total = float(most) + math.log(np.exp(scores - most).sum(dtype=np.float64))
    ids = _largest(scores, n_top)
    ids = ids[np.argsort(-scores[ids], kind="stable")]
    top = [(int(i), float(scores[i]) - total) for i in ids]
    return max(float(scores[token_id]) - total, -math.inf), top


def _numbers(logits: Tensor) -> Float32[ndarray, " V"]:
    found: ndarray = logits.float().numpy(force=True)
    return found


def _largest(scores: Float32[ndarray, " V"], n: int) -> Int[ndarray, " N"]:
    """Ids of the largest scores, in order; of equal ones the first."""
    ids = np.arange(len(scores))
    if 0 < n <= len(scores) // BLOCK:
        # At least n blocks have one that is as large: all that are smaller can be left out.
        blocks = scores[: len(scores) // BLOCK * BLOCK].reshape(-1, BLOCK).max(1)
        ids = np.flatnonzero(scores >= np.partition(blocks, -n)[-n])
    order = np.argsort(-scores[ids], kind="stable")
    return np.sort(ids[order[:n]])


def _nucleus(weights: Float32[ndarray, " V"], top_p: float) -> Int[ndarray, " N"]:
    """Of the likeliest tokens the fewest whose weights reach a share, in order of their ids."""
    total = float(weights.sum())
    for least in FIRST_LOOKS:
        likely = np.flatnonzero(weights >= np.float32(least * total))
        # Sorting is what takes long: if these weigh enough, no others are needed.
        if weights[likely].sum(dtype=np.float64) > top_p * total or not least:
            break
    order = likely[np.argsort(-weights[likely], kind="stable")]
    ordered = weights[order].astype(np.float64)
    return np.sort(order[ordered.cumsum() - ordered < top_p * total])


def _drawn(weights: Float32[ndarray, " N"], share: float) -> int:
    """Where a share of the sum of all weights lies: never where the weight is zero."""
    starts = np.arange(0, len(weights), BLOCK)
    block, rest = _place(np.add.reduceat(weights, starts), share)
    return block * BLOCK + _place(weights[block * BLOCK : (block + 1) * BLOCK], rest)[0]


def _place(weights: Float32[ndarray, " N"], share: float) -> tuple[int, float]:
    """In which of the weights a share of their sum lies, and which share of that one is before."""
    sums = weights.cumsum(dtype=np.float64)
    point = share * sums[-1]
    last = np.searchsorted(sums, sums[-1])
    index = int(min(np.searchsorted(sums, point, side="right"), last))
    rest = (point - (sums[index] - weights[index])) / weights[index]
    return index, min(max(float(rest), 0.0), 1.0)
