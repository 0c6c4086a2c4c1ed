"""One answer while it grows: tokens, text, stop strings, log-probabilities."""

import math

from torch import Tensor

from deepseek.core.llm import Attended, Completion, FinishReason, SamplingParams, TokenLogprob
from deepseek.engine.sampler import Sampler, top_logprobs
from deepseek.engine.stopping import StopFinder
from deepseek.tokenizer.tokenizer import Tokenizer


class Answer:
    """The tokens and the text of one answer while it grows."""

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams, prompt: list[int]) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.logprobs: list[TokenLogprob] = []
        self._tokenizer, self._params, self._n_prompt = tokenizer, params, len(prompt)
        self._seen = set(prompt) if params.repetition_penalty != 1 else set()
        self._sampler = Sampler(params)
        self._decoder = tokenizer.stream_decoder()
        self._stops = StopFinder(params.stop)

    def add(self, logits: Tensor) -> str:
        """Choose the next token; return the text that may be shown now."""
        token_id = self._sampler.choose(logits, self._seen)
        if token_id in self._tokenizer.eos_ids:
            self.finish_reason = "stop"
            return ""
        self.token_ids.append(token_id)
        if self._params.repetition_penalty != 1:
            self._seen.add(token_id)
        if self._params.logprobs is not None:
            self._record(logits, token_id, self._params.logprobs)
        shown = self._stops.push(self._decoder.push(token_id))
        self.text += shown
        if self._stops.found:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self._params.max_tokens:
            self.finish_reason = "length"
        return shown

    def flush(self) -> str:
        """What the decoder and the stop finder still hold."""
        rest = self._stops.push(self._decoder.flush()) + self._stops.flush()
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
        )

    def _record(self, logits: Tensor, token_id: int, n_top: int) -> None:
        logprob, top = top_logprobs(logits, token_id, n_top)
        text = self._tokenizer.token_text
        named = tuple((text(i), max(value, -math.inf)) for i, value in top)
        self.logprobs.append(TokenLogprob(text(token_id), token_id, logprob, named))
