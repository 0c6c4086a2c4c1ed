"""`Engine`: our implementation of the `LanguageModel` protocol on one model.

With the native library answers are generated side by side by a scheduler (`loop.py`), for any
number of threads, and what prompts have in common is read once. Everything else takes turns on one
cached sequence, also answers through torch; such a stream belongs to the thread that iterates it.
"""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakMethod

import torch
from jaxtyping import Float, Float32
from numpy import ndarray
from torch import Tensor

from deepseek.core.errors import ConfigError, DiskError, RequestError
from deepseek.core.llm import (
    Completion,
    Delta,
    Pooling,
    Prompt,
    SamplingParams,
    Score,
    ScoreRequest,
)
from deepseek.core.log import LOGGER
from deepseek.engine import batch, context, single
from deepseek.engine.adapters import Adapters, LoadedAdapter
from deepseek.engine.answer import Answer, check_experts, check_sampling
from deepseek.engine.context import Context, Identity, beginning_of, shared_ids
from deepseek.engine.draft_model import DraftModel
from deepseek.engine.embedding import embed_many
from deepseek.engine.loop import FairLock, Loop, keep_prefixes, loop_of
from deepseek.engine.memory import Memory
from deepseek.engine.native_runner import NativeRunner
from deepseek.engine.prefix_folder import PrefixSettings
from deepseek.engine.recall import Recall, RecallCounts, recall_of
from deepseek.engine.request import AnswerStream, Request
from deepseek.engine.runner import Runner
from deepseek.engine.torch_runner import TorchRunner
from deepseek.model.budget import Budget
from deepseek.model.context_file import ContextInfo
from deepseek.model.decoder import can_decode
from deepseek.model.memory_plan import MemoryPlan
from deepseek.model.transformer import Transformer
from deepseek.ops.cold import ColdTier
from deepseek.ops.hierarchical import NEVER, Hierarchy
from deepseek.ops.native_model import NO_ADAPTER
from deepseek.tokenizer.prompt import encode_pair, encode_prompt
from deepseek.tokenizer.tokenizer import Tokenizer

R = TypeVar("R")


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
        hierarchy: Hierarchy | None = None,
        tier: ColdTier | None = None,
        budget: Budget | None = None,
        on_prefill: Callable[[int, int], None] | None = None,
        fingerprint: Callable[[], str] = str,
        runner: Runner | None = None,
        speculates: bool = True,
        draft_model: DraftModel | None = None,
        prefixes: PrefixSettings | None = None,
    ) -> None:
        """Serve a model.

        Args:
            model: Loaded.
            tokenizer: Its own.
            name: For people.
            dtype: Of activations.
            device: Where the model is.
            context_window: Tokens that prompt and answer may take together.
            hierarchy: What tokens of long texts see; None: everything.
            budget: How much memory the cache may take; None: any.
            on_prefill: Told of prompt tokens read and to read.
            fingerprint: Gives a digest of the weights, for saved contexts.
            runner: Runs it; None: the fastest one that can, made with these settings.
            speculates: Whether next tokens are guessed where that gains.
            draft_model: A small model that guesses where the text does not.
            prefixes: Where beginnings of prompts are kept on a disk; None: nowhere.

        Raises:
            ConfigError: They cannot be kept there.
        """
        self.tokenizer = tokenizer
        kind: type[Runner] = NativeRunner if can_decode(model) else TorchRunner
        self.runner: Runner = runner or kind(
            model, dtype=dtype, device=device, hierarchy=hierarchy, tier=tier, budget=budget
        )
        self.on_prefill = on_prefill
        self._name = name
        self._fingerprint = fingerprint
        # Weakly: an engine that nobody uses gives its memory back at once, not at some later time.
        turn, forget = WeakMethod(self._turn), WeakMethod(self._forget_context)
        self._adapters = Adapters(self.runner, lambda: _called(turn), lambda n: _called(forget, n))
        self._context: Context | None = None
        self._context_ids: list[int] = []
        trained = model.config.context_window
        wanted = context_window or trained
        self._context_window = wanted if hierarchy is not None else min(wanted, trained)
        self._lock = FairLock()
        self._served: int | None = None  # the thread whose request is running
        self._loop: Loop | None = None
        if isinstance(self.runner, NativeRunner):
            self._loop = loop_of(
                self.runner,
                self._context_window,
                self._lock,
                speculates=speculates,
                draft_model=draft_model,
            )
            decoder = self.runner.decoder
            for pool in decoder.pools:
                pool.on_full = partial(self._give_way, is_cold=pool is decoder.cold)
            if budget is not None:
                make_room = self._loop.scheduler.make_room
                self._adapters.memory = Memory(budget, decoder.pool, make_room)
        if prefixes is not None:
            self._keep_prefixes(prefixes)

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self._name

    @property
    def context_window(self) -> int:
        """Tokens that prompt and answer may take together."""
        return self._context_window

    @property
    def context(self) -> Context | None:
        """The text that was read or loaded last, to be followed by questions."""
        return self._context

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` without any template around it."""
        return len(self.tokenizer.encode(text))

    @property
    def adapters(self) -> tuple[LoadedAdapter, ...]:
        """What requests can name."""
        return self._adapters.loaded

    @property
    def memory_plan(self) -> MemoryPlan | None:
        """What takes how much of the memory budget; None: there is none."""
        memory = self._adapters.memory
        return None if memory is None else memory.plan

    def load_adapter(self, name: str, path: Path) -> LoadedAdapter:
        """Let requests run with a low-rank adapter in PEFT's format; the weights stay as they are.

        Raises:
            ConfigError: The name is taken, or the memory budget has no room for it.
            CheckpointError: The adapter is damaged, of an unsupported kind, or of another model.
        """
        return self._adapters.load(name, path)

    def unload_adapter(self, name: str) -> None:
        """Give an adapter's memory back, and what was read with it.

        Raises:
            RequestError: There is none of that name, or requests that are not answered have it.
        """
        self._adapters.unload(name)

    def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Completion:
        """Answer one prompt.

        Raises:
            RequestError: The prompt is empty or does not fit the context window, or there is no
                such adapter.
        """
        *_, last = self.stream(prompt, params, adapter=adapter)
        assert last.completion is not None
        return last.completion

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        adapter: str | None = None,
    ) -> Iterator[Delta]:
        """Answer one prompt piece by piece; closing the iterator cancels the request.

        Args:
            prompt: To be answered.
            params: How to sample.
            priority: Higher ones go first, where requests run side by side.
            adapter: The name of the adapter to answer with; None: the model as it is.

        Raises:
            RequestError: The prompt is empty or does not fit the context window, or there is no
                such adapter. Raised by this call, not by the first iteration.
        """
        params = params or SamplingParams()
        prompt_ids = self._encode(prompt, params)
        if self._loop is None:
            return self._run(prompt_ids, params, self._adapters.number(adapter))
        return self._submit(prompt_ids, params, priority=priority, adapter=adapter)

    def explain(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        on_text: Callable[[str], None] | None = None,
        *,
        adapter: str | None = None,
    ) -> Recall:
        """Answer one prompt as `generate` does, and tell which of its pages were recalled.

        Raises:
            RequestError: The prompt cannot be answered, or nothing of it is recalled.
        """
        params = params or SamplingParams()
        prompt_ids = self._encode(prompt, params)
        counts = RecallCounts(self.runner, len(prompt_ids))
        for delta in self._run(prompt_ids, params, self._adapters.number(adapter), counts):
            if on_text:
                on_text(delta.text)
        assert delta.completion is not None
        return recall_of(
            counts,
            self.runner,
            self.tokenizer,
            prompt_ids,
            model=self._name,
            completion=delta.completion,
        )

    def score(
        self, prompt: Prompt, continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[Score]:
        """Log-probability of each continuation after the same prompt, which is read once.

        Raises:
            RequestError: Nothing to score, too much, or it does not fit the context window, or
                there is no such adapter.
        """
        prompt_ids, encoded = self._pair(prompt, continuations)
        with self._turn(self._adapters.number(adapter)):
            first = self.runner.read(prompt_ids, self.on_prefill)
            scores = [single.score(self.runner, first, ids) for ids in encoded]
            self.runner.rewind(len(prompt_ids))
        return scores

    def score_many(
        self, requests: Sequence[ScoreRequest], *, adapter: str | None = None
    ) -> Iterator[list[Score]]:
        """The scores of many requests, in their order; what neighbours share is read once.

        Raises:
            RequestError: A request cannot be scored; raised by this call, before any is.
        """
        number = self._adapters.number(adapter)
        pairs = [self._pair(request.prompt, request.continuations) for request in requests]
        return self._in_turns(batch.score_many(self.runner, pairs), number)

    def embed(
        self, texts: Sequence[str], *, pooling: Pooling = "mean", adapter: str | None = None
    ) -> Float32[ndarray, "N D"]:
        """A vector of length 1 for each text, whatever the others are.

        Raises:
            RequestError: A text is empty or does not fit the context window, or there is no such
                adapter.
        """
        encoded = [encode_prompt(self.tokenizer, text) for text in texts]
        for ids in encoded:
            self._require_room(len(ids), 0)
        number = self._adapters.number(adapter)
        rows = list(self._in_turns(embed_many(self.runner, encoded, pooling), number))
        return torch.cat(rows or [torch.empty(0, self.runner.model.config.d_model)]).numpy()

    def generate_many(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams],
        *,
        adapter: str | Sequence[str | None] | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """Index and answer of each prompt, as they are finished.

        Args:
            prompts: Those that begin alike should stand next to each other.
            params: How to sample, for all or for each.
            adapter: The name of the adapter to answer with, for all or for each.

        Raises:
            RequestError: A prompt cannot be answered; raised by this call, before any is.
        """
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        encoded = [self._encode(prompt, one) for prompt, one in zip(prompts, each, strict=True)]
        names = _for_each(adapter, len(prompts))
        numbers = [self._adapters.number(name) for name, _ in zip(names, prompts, strict=True)]
        if self._loop is None:
            return self._in_turn(
                lambda: batch.generate_many(self.runner, self.tokenizer, encoded, each, numbers),
                numbers,
            )
        for ids, one in zip(encoded, each, strict=True):
            self._loop.scheduler.check(ids, one.max_tokens)

        def submit(index: int, on_end: Callable[[], None]) -> AnswerStream:
            return self._submit(encoded[index], each[index], on_end, adapter=names[index])

        return batch.submit_many(submit, len(encoded))

    def read(self, prompt: Prompt, *, adapter: str | None = None) -> Context:
        """Read a text that questions will follow; it stays in the cache until another is asked.

        Raises:
            RequestError: It is empty, shorter than a page, or leaves no room for a question, or
                there is no such adapter.
        """
        beginning = beginning_of(prompt)
        ids = shared_ids(partial(encode_prompt, self.tokenizer), beginning)
        self._require_room(len(ids), 1)
        with self._turn(self._adapters.number(adapter)):
            if ids != self._context_ids:
                self.runner.rewind(0)
            self.runner.fill(ids, self.on_prefill)
            self._context, self._context_ids = Context(beginning, len(ids), adapter), ids
            self._share_context()
        return self._context

    def save_context(
        self, path: Path, on_page: Callable[[int, int], None] | None = None
    ) -> ContextInfo:
        """Write what was read to a file; if something else was asked meanwhile, read it again.

        Raises:
            RequestError: Nothing was read.
            ContextError: The place cannot be written.
        """
        if self._context is None:
            raise RequestError("no context was read", "read one first")
        with self._turn(self._adapters.number(self._context.adapter)):
            n_tokens = len(self._context_ids)
            is_there = self.runner.reusable(self._context_ids) == n_tokens
            if not (is_there and self.runner.is_as_read(n_tokens)):
                self.runner.rewind(0)
                self.runner.fill(self._context_ids, self.on_prefill)
            return context.save(path, self._context, self.runner, self._identity, on_page=on_page)

    def load_context(
        self, path: Path, on_page: Callable[[int, int], None] | None = None
    ) -> Context:
        """Bring a saved text into the cache, as if it had just been read.

        If it was read with an adapter, that must be loaded, under whatever name.

        Raises:
            ContextError: The file is damaged, or fits another model, adapter or other settings.
        """
        encode = partial(encode_prompt, self.tokenizer)
        wanted = context.adapter_of(path)
        numbers = [a.number for a in self.adapters if a.fingerprint == wanted]
        with self._turn(numbers[0] if numbers else NO_ADAPTER):
            found = context.load(path, self.runner, encode, self._identity, on_page=on_page)
            self._context, self._context_ids = found, list(self.runner.tokens)
            self._share_context()
        return found

    def _forget_context(self, adapter: str) -> None:
        """Do without the text that was read, if it was with an adapter that goes."""
        if self._context is not None and self._context.adapter == adapter:
            self._context, self._context_ids = None, []

    @property
    def _identity(self) -> Identity:
        adapter = self._adapters.of(self.runner.adapter)
        return Identity(self._name, self._fingerprint(), self._context_window, adapter)

    def encode(self, text: str) -> list[int]:
        """The token ids of `text` without any template around it."""
        return self.tokenizer.encode(text)

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(token_ids)

    def logits(
        self, token_ids: Sequence[int], *, adapter: str | None = None
    ) -> Float[Tensor, "T V"]:
        """Float32 logits after each token of one sequence, which must fit the context window."""
        self._require_room(len(token_ids), 0)
        with self._turn(self._adapters.number(adapter)):
            self.runner.rewind(0)
            self.runner.asks_from = NEVER
            return self.runner.extend(token_ids).float()

    def close(self) -> None:
        """Stop after what runs, and write what is left of prompts' beginnings to the disk.

        The end of the program does so, too.
        """
        if self._loop is not None:
            self._loop.close()

    def forget(self) -> None:
        """Empty the cache in memory: the next answer does not depend on what was asked before.

        What is kept on a disk stays there.
        """
        with self._turn():
            self.runner.rewind(0)
            if self._loop is not None:
                self._loop.forget()

    def _keep_prefixes(self, settings: PrefixSettings) -> None:
        is_exact = self.runner.tier is None
        if self._loop is not None and isinstance(self.runner, NativeRunner) and is_exact:
            keep_prefixes(self.runner, self._loop, self._lock, settings, self._fingerprint())
            return
        why = "they need quantised weights on a CPU, and keys and values in bfloat16"
        if settings.is_required:
            raise ConfigError(
                f"no beginnings of prompts can be kept on a disk: {why}",
                "leave prefix_cache (--prefix-cache) out, or use such weights and kv_dtype",
            )
        LOGGER.info("beginnings of prompts are not kept on a disk: %s", why)

    def _submit(
        self,
        ids: list[int],
        params: SamplingParams,
        on_end: Callable[[], None] | None = None,
        priority: int = 0,
        adapter: str | None = None,
    ) -> AnswerStream:
        """Let the scheduler answer."""
        assert self._loop is not None
        self._refuse_in_own_turn()
        answer, number = Answer(self.tokenizer, params, ids), self._adapters.hold(adapter)

        def end() -> None:
            self._adapters.release(number)
            if on_end is not None:
                on_end()

        request = Request(
            ids,
            answer,
            params.max_tokens,
            priority,
            on_progress=self.on_prefill,
            on_end=end,
            adapter=number,
        )
        try:
            return self._loop.submit(request)
        except BaseException:
            self._adapters.release(number)
            raise

    def _share_context(self) -> None:
        """Let prompts begin with what was read."""
        if self._loop is not None and isinstance(self.runner, NativeRunner):
            self._loop.scheduler.tree.insert(self._context_ids, self.runner.sequence)

    def _give_way(self, *, is_cold: bool) -> bool:
        """Whether the scheduler gave pages to what runs in a turn; its own passes fit anyway."""
        if self._loop is None or self._served is None:
            return False
        return self._loop.scheduler.give_way(is_cold=is_cold)

    @contextlib.contextmanager
    def _turn(self, adapter: int | None = None, share: float | None = None) -> Iterator[None]:
        """Wait until no other request runs. Waiting for one's own would never end.

        The runner reads with the adapter of that number and the share of experts then; None: as it
        did before. What cannot
        be read back from a disk is forgotten, so that the next request reads it anew.
        """
        self._refuse_in_own_turn()
        with self._lock:
            self._served = threading.get_ident()
            try:
                if adapter is not None:
                    self._adapters.of(adapter)
                    self.runner.use(adapter)
                    self.runner.spend(share)
                yield
            except DiskError:
                self.runner.rewind(0)
                raise
            finally:
                self._served = None

    def _refuse_in_own_turn(self) -> None:
        if self._served == threading.get_ident():
            raise RequestError(
                "an earlier answer is still being streamed", "read it to its end or close it first"
            )

    def _in_turn(
        self, results: Callable[[], Iterator[R]], adapters: Sequence[int]
    ) -> Generator[R, None, None]:
        with self._turn():
            for adapter in set(adapters):
                self._adapters.of(adapter)
            yield from results()

    def _in_turns(self, results: Iterator[R], adapter: int) -> Generator[R, None, None]:
        """One after the other, with others in between."""
        while True:
            with self._turn(adapter):
                result = next(results, None)
            if result is None:
                return
            yield result

    def _pair(
        self, prompt: Prompt, continuations: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        ids, encoded = encode_pair(self.tokenizer, prompt, continuations)
        self._require_room(len(ids), max(map(len, encoded)))
        return ids, encoded

    def _encode(self, prompt: Prompt, params: SamplingParams) -> list[int]:
        ids = encode_prompt(self.tokenizer, prompt)
        self._require_room(len(ids), params.max_tokens)
        check_sampling(self.tokenizer, params, self.runner.model.config.vocab_size)
        check_experts(self.runner.model.config.moe, params, is_native=self._loop is not None)
        return ids

    def _require_room(self, n_prompt: int, n_new: int) -> None:
        if n_prompt + n_new > self._context_window:
            raise RequestError(
                f"prompt ({n_prompt} tokens) and answer (up to {n_new}) exceed "
                f"the context window of {self._context_window}",
                "shorten the prompt or lower max_tokens",
            )

    def _run(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        adapter: int,
        counts: RecallCounts | None = None,
    ) -> Generator[Delta, None, None]:
        with self._turn(adapter, params.expert_budget), counts or contextlib.nullcontext():
            answer = Answer(self.tokenizer, params, prompt_ids)
            yield from single.generate(self.runner, answer, prompt_ids, self.on_prefill, counts)


def _called(method: WeakMethod[Callable[..., R]], *arguments: Any) -> R:
    there = method()
    assert there is not None, "who asks belongs to the engine"
    return there(*arguments)


def _for_each(adapter: str | Sequence[str | None] | None, n: int) -> list[str | None]:
    if adapter is None or isinstance(adapter, str):
        return [adapter] * n
    return list(adapter)
