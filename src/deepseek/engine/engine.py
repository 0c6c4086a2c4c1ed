"""`Engine`: our implementation of the `LanguageModel` protocol on one model and one cache.

Requests are served one at a time; a second thread waits its turn. A stream belongs to the
thread that iterates it.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from torch import Tensor

from deepseek.core.errors import RequestError
from deepseek.core.llm import (
    Completion,
    Delta,
    FinishReason,
    Prompt,
    SamplingParams,
    Score,
    TokenLogprob,
)
from deepseek.engine.runner import Runner
from deepseek.engine.sampler import Sampler, top_logprobs
from deepseek.engine.stopping import StopFinder
from deepseek.model.transformer import Transformer
from deepseek.tokenizer.tokenizer import Tokenizer

MAX_CONTINUATIONS = 1_024


class Engine:
    """Generates, streams and scores with a loaded model."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        name: str,
        dtype: torch.dtype,
        device: torch.device,
        context_window: int | None = None,
        on_prefill: Callable[[int, int], None] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.runner = Runner(model, dtype=dtype, device=device)
        self.on_prefill = on_prefill
        self._name = name
        trained = model.config.context_window
        self._context_window = min(context_window or trained, trained)
        self._lock = threading.Lock()
        self._served: int | None = None  # the thread whose request is running

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self._name

    @property
    def context_window(self) -> int:
        """Tokens that prompt and answer may take together."""
        return self._context_window

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` without any template around it."""
        return len(self.tokenizer.encode(text))

    def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> Completion:
        """Answer one prompt.

        Raises:
            RequestError: The prompt is empty or does not fit the context window.
        """
        for delta in self.stream(prompt, params):
            if delta.completion is not None:
                return delta.completion
        raise AssertionError("a stream ends with its completion")

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        """Answer one prompt piece by piece; closing the iterator cancels the request.

        Raises:
            RequestError: The prompt is empty or does not fit the context window. Raised by
                this call, not by the first iteration.
        """
        params = params or SamplingParams()
        prompt_ids = self._encode(prompt, params.max_tokens)
        return self._run(prompt_ids, params)

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[Score]:
        """Log-probability of each continuation after the same prompt, which is read once.

        Raises:
            RequestError: Nothing to score, too much, or it does not fit the context window.
        """
        if not 1 <= len(continuations) <= MAX_CONTINUATIONS:
            raise RequestError(
                f"{len(continuations)} continuations", f"score 1 to {MAX_CONTINUATIONS} at a time"
            )
        encoded = [self.tokenizer.encode(text) for text in continuations]
        if not all(encoded):
            raise RequestError("a continuation is empty", "give each at least one character")
        prompt_ids = self._encode(prompt, max(map(len, encoded)))
        with self._turn():
            first = self.runner.read(prompt_ids, self.on_prefill)
            scores = [self._score_one(first, ids) for ids in encoded]
            self.runner.rewind(len(prompt_ids))
        return scores

    def forget(self) -> None:
        """Empty the cache: the next answer does not depend on what was asked before."""
        with self._turn():
            self.runner.rewind(0)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other request runs. Waiting for one's own would never end."""
        if self._served == threading.get_ident():
            raise RequestError(
                "an earlier answer is still being streamed", "read it to its end or close it first"
            )
        with self._lock:
            self._served = threading.get_ident()
            try:
                yield
            finally:
                self._served = None

    def _score_one(self, first: Tensor, ids: list[int]) -> Score:
        """Score one continuation with the prompt in the cache; leaves it there."""
        n_prompt = len(self.runner.tokens)
        logits = first[None]
        if len(ids) > 1:
            logits = torch.cat((logits, self.runner.extend(ids[:-1])))
            self.runner.rewind(n_prompt)
        wide = logits.float()
        chosen = wide[torch.arange(len(ids)), ids]
        total = float((chosen - wide.logsumexp(-1)).double().sum())
        return Score(total, len(ids), bool((wide.argmax(-1).tolist()) == ids))

    def _encode(self, prompt: Prompt, n_new: int) -> list[int]:
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt, add_bos=True)
        else:
            ids = self.tokenizer.encode_chat(prompt)
        if not ids:
            raise RequestError("the prompt is empty", "write something to continue")
        if len(ids) + n_new > self._context_window:
            raise RequestError(
                f"prompt ({len(ids)} tokens) and answer (up to {n_new}) exceed "
                f"the context window of {self._context_window}",
                "shorten the prompt or lower max_tokens",
            )
        return ids

    def _run(self, prompt_ids: list[int], params: SamplingParams) -> Generator[Delta, None, None]:
        with self._turn():
            start = time.perf_counter()
            reused = min(self.runner.reusable(prompt_ids), len(prompt_ids) - 1)
            logits = self.runner.read(prompt_ids, self.on_prefill)
            answer = _Answer(self.tokenizer, params, prompt_ids)
            prefill_end = time.perf_counter()
            while True:
                piece = answer.add(logits)
                if piece:
                    yield Delta(piece)
                if answer.finish_reason is not None:
                    break
                logits = self.runner.step(answer.token_ids[-1])
            rest = answer.flush()
            completion = Completion(
                text=answer.text,
                token_ids=tuple(answer.token_ids),
                finish_reason=answer.finish_reason,
                n_prompt_tokens=len(prompt_ids),
                n_reused_tokens=reused,
                prefill_seconds=prefill_end - start,
                decode_seconds=time.perf_counter() - prefill_end,
                logprobs=tuple(answer.logprobs),
            )
            yield Delta(rest, completion)


class _Answer:
    """The tokens and the text of one answer while it grows."""

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams, prompt: list[int]) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.logprobs: list[TokenLogprob] = []
        self._tokenizer, self._params = tokenizer, params
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

    def _record(self, logits: Tensor, token_id: int, n_top: int) -> None:
        logprob, top = top_logprobs(logits, token_id, n_top)
        text = self._tokenizer.token_text
        named = tuple((text(i), max(value, -math.inf)) for i, value in top)
        self.logprobs.append(TokenLogprob(text(token_id), token_id, logprob, named))
