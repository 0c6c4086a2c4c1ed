"""One answer while it grows: tokens, reasoning and text, constraint, stops, log-probabilities."""

import math
from typing import TYPE_CHECKING

from torch import Tensor

from deepseek.core.errors import RequestError
from deepseek.core.llm import (
    Attended,
    Completion,
    ExpertsUsed,
    FinishReason,
    SamplingParams,
    TokenLogprob,
)
from deepseek.engine.reasoning import Reasoning, opens_reasoning
from deepseek.engine.sampler import Sampler, top_logprobs
from deepseek.engine.stopping import StopFinder
from deepseek.model.moe.budget import check_expert_budget
from deepseek.model.moe.config import MoEConfig
from deepseek.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from deepseek.engine.constraint import Matcher

MAX_FORCED = 64
"""Tokens that are read ahead at once, each with logits."""


def check_sampling(tokenizer: Tokenizer, params: SamplingParams, vocab_size: int) -> None:
    """Find before anything runs what an `Answer` would stumble over.

    Raises:
        RequestError: The constraint cannot be used, or a token id is outside the vocabulary.
    """
    _matcher(tokenizer, params)
    outside = [i for i in params.logit_bias if i >= vocab_size]
    if outside:
        raise RequestError(
            f"logit_bias names token {outside[0]}", f"allowed: 0 to {vocab_size - 1:,}"
        )


def check_experts(moe: MoEConfig | None, params: SamplingParams, *, is_native: bool) -> None:
    """Refuse a share of experts that this model, or how it runs, cannot keep to.

    Raises:
        RequestError: It cannot.
    """
    if params.expert_budget is None:
        return
    check_expert_budget(moe, params.expert_budget)
    if is_native:
        raise RequestError(
            "requests choose how many experts they use through torch only",
            "load the mixture with dtype bfloat16 or float32, or leave expert_budget out",
        )


class Answer:
    """The tokens and the text of one answer while it grows."""

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams, prompt: list[int]) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self.reasoning = ""
        self.thought = ""
        """What may be shown of reasoning since the last call of `add` or `flush`."""
        self.finish_reason: FinishReason | None = None
        self.logprobs: list[TokenLogprob] = []
        self._tokenizer, self._params, self._n_prompt = tokenizer, params, len(prompt)
        self._sampler = Sampler(params, prompt)
        self._decoder = tokenizer.stream_decoder()
        self._stops = StopFinder(params.stop)
        self._matcher = _matcher(tokenizer, params)
        self._reasoning = Reasoning(
            tokenizer,
            is_open=opens_reasoning(tokenizer, prompt),
            may_open=self._matcher is None,
            budget=params.reasoning_budget,
        )

    def add(self, logits: Tensor) -> str:
        """Choose the next token; return the text that may be shown now."""
        self.thought = ""
        matcher, was_open = self._active_matcher, self._reasoning.is_open
        token_id = self._choose(logits, matcher)
        if matcher is not None and matcher.error:
            self.finish_reason = "constraint"
            return ""
        if token_id in self._tokenizer.eos_ids:
            self.finish_reason = "stop"
            return ""
        self.token_ids.append(token_id)
        self._sampler.note(token_id)
        if self._params.logprobs is not None:
            self._record(logits, token_id, self._params.logprobs)
        piece = self._decoder.push(token_id)
        if matcher is not None:
            matcher.accept(token_id)
        else:
            piece = self._split(piece)
        if was_open:
            self._reasoning.count()
        shown = self._stops.push(piece)
        self.text += shown
        self._finish(matcher)
        return shown

    def forced(self) -> list[int]:
        """The tokens that come next whatever the logits, as far as they are known now."""
        known = self._reasoning.closing
        if self._active_matcher is not None:
            known = self._active_matcher.forced_tokens()
        return known[: min(MAX_FORCED, self._params.max_tokens - len(self.token_ids))]

    def fitting(self, token_ids: list[int]) -> list[int]:
        """Of tokens that may come next, those up to the first that the constraint forbids."""
        matcher = self._active_matcher
        return token_ids if matcher is None else token_ids[: matcher.n_fitting(token_ids)]

    def flush(self) -> str:
        """What the decoder and the stop finder still hold."""
        rest = self._decoder.flush()
        thought = ""
        if self._active_matcher is None:
            rest = self._split(rest)
            held, more = self._reasoning.flush()
            self.reasoning += held
            thought, rest = self.thought + held, rest + more
        self.thought = thought
        rest = self._stops.push(rest) + self._stops.flush()
        if self._stops.found:
            self.finish_reason = "stop"
        self.text += rest
        return rest

    def completion(
        self,
        *,
        n_reused_tokens: int,
        prefill_seconds: float,
        decode_seconds: float,
        attended: Attended | None = None,
        n_drafted: int = 0,
        n_accepted: int = 0,
        experts: ExpertsUsed | None = None,
    ) -> Completion:
        """The finished answer."""
        assert self.finish_reason is not None
        return Completion(
            text=self.text,
            token_ids=tuple(self.token_ids),
            finish_reason=self.finish_reason,
            n_prompt_tokens=self._n_prompt,
            n_reused_tokens=n_reused_tokens,
            prefill_seconds=prefill_seconds,
            decode_seconds=decode_seconds,
            logprobs=tuple(self.logprobs),
            attended=attended,
            reasoning=self.reasoning,
            n_reasoning_tokens=self._reasoning.n_tokens,
            n_drafted=n_drafted,
            n_accepted=n_accepted,
            experts=experts,
        )

    @property
    def _active_matcher(self) -> "Matcher | None":
        """The constraint begins behind reasoning."""
        before = self._reasoning.is_open or self._reasoning.closing
        return None if before else self._matcher

    def _choose(self, logits: Tensor, matcher: "Matcher | None") -> int:
        closing = self._reasoning.closing
        if closing:
            return closing.pop(0)
        if matcher is None:
            token_id = self._sampler.choose(logits)
            if self._matcher is None or token_id not in self._tokenizer.eos_ids:
                return token_id
            # A model that ends while it reasons has not given the answer that must follow.
            self._reasoning.close()
            return self._reasoning.closing.pop(0)
        forced = matcher.forced_tokens()
        if forced:
            return forced[0]
        allowed = matcher.allowed(len(logits))
        return (
            min(self._tokenizer.eos_ids) if matcher.error else self._sampler.choose(logits, allowed)
        )

    def _split(self, piece: str) -> str:
        """Take what belongs to reasoning out of a piece."""
        self.thought, text = self._reasoning.push(piece)
        self.reasoning += self.thought
        # A constrained answer begins with a token of its own: what follows the mark is none of it.
        return text if self._matcher is None else ""

    def _finish(self, matcher: "Matcher | None") -> None:
        if self._stops.found:
            self.finish_reason = "stop"
        elif matcher is not None and matcher.error:
            self.finish_reason = "constraint"
        elif matcher is not None and matcher.is_complete:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self._params.max_tokens:
            self.finish_reason = "length"

    def _record(self, logits: Tensor, token_id: int, n_top: int) -> None:
        logprob, top = top_logprobs(logits, token_id, n_top)
        text = self._tokenizer.token_text
        named = tuple((text(i), max(value, -math.inf)) for i, value in top)
        self.logprobs.append(TokenLogprob(text(token_id), token_id, logprob, named))


def _matcher(tokenizer: Tokenizer, params: SamplingParams) -> "Matcher | None":
    if params.constraint is None:
        return None
    from deepseek.engine.constraint import grammars_of  # most requests do without the library

    return grammars_of(tokenizer).matcher(params.constraint)
