"""`R1Model`: a checkpoint that is loaded, answers, and reads papers."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek.core.constraint import NAMES, Constraint
from deepseek.core.errors import ConfigError, RequestError
from deepseek.core.llm import (
    Completion,
    Delta,
    Message,
    Pooling,
    Prompt,
    SamplingParams,
    Score,
    ScoreRequest,
)
from deepseek.core.memory import parse_bytes
from deepseek.engine.loader import LoadReport, Progress, Speculation, load_engine
from deepseek.engine.prefix_folder import choose_prefixes
from deepseek.engine.samples import samples
from deepseek.weights.pull import OnProgress

if TYPE_CHECKING:
    from jaxtyping import Float32
    from numpy import ndarray
    from torch import Tensor

    from deepseek.apps.documents.document import Document
    from deepseek.apps.papers.analysis import Finding, PaperAnalysis
    from deepseek.apps.papers.progress import AnalysisProgress
    from deepseek.apps.papers.reading import ReadMode
    from deepseek.apps.papers.tasks import Task
    from deepseek.engine.adapters import LoadedAdapter
    from deepseek.engine.context import Context
    from deepseek.engine.recall import Recall
    from deepseek.model.context_file import ContextInfo
    from deepseek.model.hierarchical import AttentionMode
    from deepseek.model.memory_plan import MemoryPlan
    from deepseek.model.moe.meter import LoadMeter
    from deepseek.ops.cold import KVDtype

DEFAULT_MODEL = "qwen2.5-coder-1.5b"


def default_model() -> str:
    """The checkpoint used when none is named: `$DEEPSEEK_MODEL`, or Qwen2.5-Coder-1.5B."""
    return os.environ.get("DEEPSEEK_MODEL") or DEFAULT_MODEL


class R1Model:
    """A language model on this machine, with the applications on top of it.

    It implements `deepseek.core.llm.LanguageModel`.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        context_window: int | None = None,
        attention: "AttentionMode" = "auto",
        kv_dtype: "KVDtype" = "auto",
        kv_disk: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        memory_budget: int | str | None = None,
        speculation: Speculation = "auto",
        draft_model: str | Path | None = None,
        prefix_cache: str | Path | None = None,
        prefix_cache_size: int | str | None = None,
        on_load: Progress | None = None,
        on_pull: OnProgress | None = None,
        on_prefill: Callable[[int, int], None] | None = None,
    ) -> None:
        """Load a checkpoint, pulling it first if it is named and not here yet.

        Args:
            model: A name (`deepseek models` lists them), a GGUF file or a folder with
                safetensors. Default: `$DEEPSEEK_MODEL`, or `qwen2.5-coder-1.5b`.
            context_window: Tokens that prompt and answer may take together. Default: what the
                weights were trained for.
            attention: `dense`, `hierarchical` (from 8,192 tokens on), or `auto`: dense in what
                the weights were trained for, hierarchical beyond if the context window is larger.
            kv_dtype: `bfloat16`; with `int8` or `int4`, keys and values behind the last tokens are
                kept in so many bits, which takes a half or a third of the memory. Needs quantised
                weights on a CPU; others are kept in what they are computed in. `auto` is bfloat16,
                or the first of `int8` and `int4` that fits if the context window does not fit the
                memory budget so, or without one the memory that is left; `int8` with `kv_disk`.
            kv_disk: A folder for a file that holds what is in 8 or 4 bits, instead of memory (on
                Linux). It has no name and is gone when the model is, or the process.
            device: `auto`, `cpu` or `cuda`.
            dtype: `int8`, `bfloat16`, `float16`, `float32`, or `auto`: quantised weights stay so
                and are multiplied in 8 bits by the native kernels, others as suits the machine.
            threads: CPU threads; default: what the machine grants this process.
            memory_budget: Bytes, or a size such as `4GiB`, that all stays below (`memory_plan`);
                kept with quantised weights on a CPU. Without a context window, the
                largest that fits is taken, up to the trained one.
            speculation: `auto`: next tokens are guessed and checked together where that is faster
                (quantised weights on a CPU); `off`: never. Answers are the same.
            draft_model: A small model with the same vocabulary, which guesses where the text does
                not. It pays if the model is many times its size.
            prefix_cache: A folder in which beginnings of prompts are kept, so that they are not
                read again, also after a restart and by other processes; `auto`: one in the user's
                cache. It holds what prompts say, for whoever can read it. Default: none. Needs
                quantised weights on a CPU, and keys and values in bfloat16.
            prefix_cache_size: Bytes, or a size such as `4GiB` (the default), that it stays below.
            on_load: Told of layers loaded and layers in all.
            on_pull: Told what is happening, bytes done and bytes in all while weights are pulled.
            on_prefill: Told of prompt tokens read and to read.

        Raises:
            ConfigError: A setting is wrong.
            DownloadError: The checkpoint cannot be fetched.
            CheckpointError: The weights are damaged or not supported.
        """
        if context_window is not None and not 16 <= context_window <= 100_000_000:
            raise ConfigError(f"context_window is {context_window}", "use 16 to 100,000,000 tokens")
        self._engine, self.load_report = load_engine(
            str(model) if model is not None else default_model(),
            context_window=context_window,
            attention=attention,
            kv_dtype=kv_dtype,
            kv_disk=kv_disk,
            device=device,
            dtype=dtype,
            threads=threads,
            memory_budget=None if memory_budget is None else parse_bytes(memory_budget),
            speculation=speculation,
            draft_model=None if draft_model is None else str(draft_model),
            prefixes=choose_prefixes(prefix_cache, prefix_cache_size),
            on_load=on_load,
            on_pull=on_pull,
            on_prefill=on_prefill,
        )

    load_report: LoadReport

    def close(self) -> None:
        """Stop after what runs, and write what is left to the prefix cache.

        The end of the program does so, too.
        """
        self._engine.close()

    def forget(self) -> None:
        """Empty the cache in memory: answers do not depend on what was asked before."""
        self._engine.forget()

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self._engine.name

    @property
    def weights(self) -> str:
        """How the weights are stored and computed: measured quality is quoted with it."""
        runner = self._engine.runner
        kept = "" if runner.tier is None else f"; keys and values: {runner.tier.describe()}"
        seen = "" if runner.hierarchy is None else f"; attention: {self.attention}"
        return self.load_report.weights + kept + seen

    @property
    def context_window(self) -> int:
        """Tokens that one request may take."""
        return self._engine.context_window

    @property
    def attention(self) -> str:
        """What a token sees of a long text, for people."""
        hierarchy = self._engine.runner.hierarchy
        return "dense" if hierarchy is None else hierarchy.describe()

    @property
    def keys_and_values(self) -> str:
        """How keys and values are kept, for people; with the reason if memory decided."""
        return self.load_report.keys_and_values

    @property
    def memory_plan(self) -> "MemoryPlan | None":
        """What takes how much of the memory budget, to the byte; None: none was given."""
        return self._engine.memory_plan

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`."""
        return self._engine.count_tokens(text)

    def load_adapter(self, name: str, path: str | Path) -> "LoadedAdapter":
        """Let requests name a low-rank adapter; the weights stay as they are.

        Requests with several adapters and with none run in one batch, each as if it were alone.

        Args:
            name: For requests.
            path: A folder in PEFT's format: `adapter_config.json`, `adapter_model.safetensors`.

        Raises:
            ConfigError: The name is taken, or the memory budget has no room for it.
            CheckpointError: The adapter is damaged, of an unsupported kind, or of another model.
        """
        return self._engine.load_adapter(name, Path(path))

    def unload_adapter(self, name: str) -> None:
        """Give an adapter's memory back.

        Raises:
            RequestError: There is none of that name, or requests that are not answered have it.
        """
        self._engine.unload_adapter(name)

    @property
    def adapters(self) -> "tuple[LoadedAdapter, ...]":
        """What requests can name."""
        return self._engine.adapters

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        **settings: Any,
    ) -> Completion:
        """Continue a text, or answer a conversation, in one piece.

        Args:
            prompt: Text to continue as it stands, or messages for the chat template.
            params: How to sample. Fields may be given by name instead: `temperature=0.7`.
            adapter: The name of the adapter to answer with; None: the model as it is.
            **settings: Fields of `SamplingParams`, and `json_schema`, `regex`, `grammar` or
                `choice` for the constraint of that kind.

        Raises:
            RequestError: A setting is unknown or out of range, the constraint cannot be used, the
                prompt does not fit, or there is no such adapter.
        """
        return self._engine.generate(prompt, _sampling(params, settings), adapter=adapter)

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        **settings: Any,
    ) -> Iterator[Delta]:
        """Like `generate`, piece by piece. Closing the iterator stops the answer."""
        return self._engine.stream(prompt, _sampling(params, settings), adapter=adapter)

    def samples(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        n: int = 1,
        best_of: int | None = None,
        adapter: str | None = None,
        **settings: Any,
    ) -> list[Completion]:
        """Draw several answers to one prompt, which is read once.

        Args:
            prompt: Text to continue as it stands, or messages for the chat template.
            params: How to sample; the i-th answer has the seed `seed + i`.
            n: Answers to return, 1 to 64.
            best_of: Draw so many, up to 64, and return the n likeliest by token, best first.
            adapter: The name of the adapter to answer with.
            **settings: As for `generate`.

        Raises:
            RequestError: A number is out of range, or the prompt cannot be answered.
        """
        draw = partial(self._engine.generate_many, adapter=adapter)
        return samples(draw, prompt, _sampling(params, settings), n, best_of)

    def chat(
        self,
        messages: str | Sequence[Message | dict[str, str]],
        params: SamplingParams | None = None,
        **settings: Any,
    ) -> Completion:
        """Answer a question or a conversation.

        Args:
            messages: A question, or turns as `Message` or `{"role": …, "content": …}`.
            params: How to sample.
            **settings: As for `generate`.

        Raises:
            RequestError: A turn is malformed, or the conversation does not fit.
        """
        return self.generate(conversation(messages), params, **settings)

    def read(
        self,
        text: str | Sequence[Message | dict[str, str]],
        *,
        raw: bool = False,
        adapter: str | None = None,
    ) -> "Context":
        """Read a long text once, to ask about it with `ask`.

        Args:
            text: A text, which becomes the user's first message with the question behind it, or
                the turns of a conversation that questions follow.
            raw: The text is no message: questions continue it as it stands.
            adapter: The name of the adapter to read with; questions are answered with it, too.

        Raises:
            RequestError: It is empty, shorter than 64 tokens, or leaves no room for a question.
        """
        if raw and not isinstance(text, str):
            raise RequestError("raw reads a text, not a conversation", "give the text")
        prompt = text if raw and isinstance(text, str) else conversation(text)
        return self._engine.read(prompt, adapter=adapter)

    def save_context(
        self, path: str | Path, on_page: Callable[[int, int], None] | None = None
    ) -> "ContextInfo":
        """Write what was read to a file, so that it need not be read again.

        Args:
            path: Where to; written whole or not at all.
            on_page: Told of pages written and to write.

        Raises:
            RequestError: Nothing was read.
            ContextError: The place cannot be written.
        """
        return self._engine.save_context(Path(path), on_page)

    def load_context(
        self, path: str | Path, on_page: Callable[[int, int], None] | None = None
    ) -> "Context":
        """Take a saved text up again, as if it had just been read.

        Args:
            path: What `save_context` wrote with the same checkpoint and the same settings, and
                the same adapter if there was one.
            on_page: Told of pages read and to read.

        Raises:
            ContextError: The file is damaged, or fits another model or other settings.
        """
        return self._engine.load_context(Path(path), on_page)

    @cached_property
    def expert_meter(self) -> "LoadMeter":
        """How busy a mixture's experts are, from when this is first asked for.

        Raises:
            ConfigError: The model is dense.
        """
        from deepseek.model.moe.meter import LoadMeter

        return LoadMeter(self._engine.runner.model)

    @property
    def context(self) -> "Context | None":
        """The text that was read or loaded last."""
        return self._engine.context

    def ask(
        self, question: str, params: SamplingParams | None = None, **settings: Any
    ) -> Completion:
        """Answer a question about the text that was read or loaded, with the adapter of that.

        Args:
            question: Follows the text.
            params: How to sample.
            **settings: Fields of `SamplingParams`.

        Raises:
            RequestError: Nothing was read, the question does not fit the context window, or
                another adapter is named.
        """
        if self.context is None:
            raise RequestError("no text was read", "call read or load_context first")
        adapter = self.context.adapter
        if settings.setdefault("adapter", adapter) != adapter:
            raise RequestError(
                f"the text was read with {named_adapter(adapter)}, not with "
                f"{named_adapter(settings['adapter'])}",
                "read it again with the one to ask with",
            )
        return self.generate(self.context.followed_by(question), params, **settings)

    def explain(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        on_text: Callable[[str], None] | None = None,
        adapter: str | None = None,
        **settings: Any,
    ) -> "Recall":
        """Answer as `generate` does, and tell which pages of a long prompt were recalled.

        Args:
            prompt: Longer than what is read densely, in hierarchical attention.
            params: How to sample.
            on_text: Told of each piece of the answer.
            adapter: The name of the adapter to answer with.
            **settings: Fields of `SamplingParams`.

        Raises:
            RequestError: The prompt cannot be answered, or nothing of it is recalled.
        """
        return self._engine.explain(prompt, _sampling(params, settings), on_text, adapter=adapter)

    def score(
        self, prompt: Prompt, continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[Score]:
        """Log-probability of each continuation after the prompt."""
        return self._engine.score(prompt, continuations, adapter=adapter)

    def score_many(
        self, requests: Sequence[ScoreRequest], *, adapter: str | None = None
    ) -> Iterator[list[Score]]:
        """The scores of many requests, in their order; what neighbours share is read once."""
        return self._engine.score_many(requests, adapter=adapter)

    def embed(
        self, texts: Sequence[str], *, pooling: Pooling = "mean", adapter: str | None = None
    ) -> "Float32[ndarray, 'N D']":
        """A vector of length 1 for each text: of the `mean` of its tokens, or of the `last`."""
        return self._engine.embed(texts, pooling=pooling, adapter=adapter)

    def generate_many(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams],
        *,
        adapter: str | Sequence[str | None] | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """Index and answer of each prompt, as they are finished, several side by side.

        Settings and adapter are for all or for each.
        """
        return self._engine.generate_many(prompts, params, adapter=adapter)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` without any template around it."""
        return self._engine.encode(text)

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of token ids."""
        return self._engine.decode(token_ids)

    def logits(self, token_ids: Sequence[int]) -> "Tensor":
        """Float32 logits [tokens, vocabulary] after each token of one sequence."""
        return self._engine.logits(token_ids)

    @contextlib.contextmanager
    def watched(self, on_prefill: Callable[[int, int], None]) -> Iterator[None]:
        """Tell of prompt tokens read and to read, in a `with` block and in its thread.

        Args:
            on_prefill: Told beside the one that the model was made with; an exception from it
                ends the request and is passed on.
        """
        before, thread = self._engine.on_prefill, threading.get_ident()

        def tell(done: int, total: int) -> None:
            if before is not None:
                before(done, total)
            if threading.get_ident() == thread:
                on_prefill(done, total)

        self._engine.on_prefill = tell
        try:
            yield
        finally:
            self._engine.on_prefill = before

    def analyze_paper(
        self,
        source: "str | Path | Document",
        tasks: "Sequence[str | Task]" = ("method_innovation", "experiment_flaws"),
        *,
        task_file: str | Path | None = None,
        read: "ReadMode" = "auto",
        seed: int = 0,
        time_limit: float | None = None,
        on_progress: "Callable[[AnalysisProgress], None] | None" = None,
        on_finding: "Callable[[Finding], None] | None" = None,
    ) -> "PaperAnalysis":
        """Read a scientific paper and answer tasks about it with verified quotes.

        Args:
            source: A PDF, text or Markdown file, an arXiv id, a URL, the name of a sample
                document (`deepseek models`), or a `Document` that was read already.
            tasks: Names of tasks (`deepseek papers tasks`), `Task` objects, or free questions
                and wishes in several words.
            task_file: A TOML file with more tasks.
            read: `whole`: questions are also answered with the whole paper before the model,
                which reads it once; `sentences`: it sees single sentences only, which is quicker;
                `auto`: whole if the context window holds the paper, and says so if it does not.
            seed: Same paper, tasks and seed: same report.
            time_limit: Seconds after which what was found so far is returned.
            on_progress: Told what is being done and how much is left.
            on_finding: Told of each finding as soon as it is there.

        Raises:
            DocumentError: The paper cannot be read.
            ConfigError: A task is unknown, or the context window does not hold the whole paper
                where `read` wants it.
        """
        from deepseek.apps.documents.document import Document
        from deepseek.apps.documents.reader import read_document
        from deepseek.apps.papers.analyse import analyse_paper
        from deepseek.apps.papers.tasks import load_tasks, resolve_tasks

        extra = load_tasks(Path(task_file)) if task_file is not None else None
        resolve_tasks(tasks, extra)  # a mistake in them is reported before the paper is read
        if not isinstance(source, Document):
            source = read_document(sample_or_path(source))
        self._engine.forget()  # what was asked before must not change how numbers are rounded
        return analyse_paper(
            source,
            self,
            tasks,
            extra_tasks=extra,
            read=read,
            seed=seed,
            time_limit=time_limit,
            on_progress=on_progress,
            on_finding=on_finding,
        )


def named_adapter(name: str | None) -> str:
    """An adapter for people."""
    return "no adapter" if name is None else f"the adapter {name!r}"


def sample_or_path(source: str | Path) -> str | Path:
    """The file of a sample document if `source` names one, pulled if need be; else `source`."""
    from deepseek.weights.pull import ensure
    from deepseek.weights.registry import load_registry

    entry = load_registry().get(str(source))
    if entry is None or entry.kind != "document" or Path(source).exists():
        return source
    return ensure(entry.name).path


def conversation(messages: str | Sequence[Message | dict[str, str]]) -> list[Message]:
    """Turns from whatever a caller has.

    Raises:
        RequestError: A turn has other fields than role and content, or another role.
    """
    if isinstance(messages, str):
        return [Message("user", messages)]
    turns = []
    for turn in messages:
        if isinstance(turn, Message):
            turns.append(turn)
            continue
        if set(turn) != {"role", "content"} or not all(isinstance(v, str) for v in turn.values()):
            raise RequestError(
                f"a message has the fields {sorted(turn)}",
                "give each message a role and a content, both text",
            )
        role = turn["role"]
        if role not in ("system", "user", "assistant"):
            raise RequestError(f"a message has the role {role!r}", "use system, user or assistant")
        turns.append(Message(role, turn["content"]))  # type: ignore[arg-type]
    return turns


def _sampling(params: SamplingParams | None, settings: dict[str, Any]) -> SamplingParams:
    if not settings:
        return params or SamplingParams()
    if params is not None:
        raise RequestError("both params and settings by name were given", "give one of the two")
    forms = [kind for kind in NAMES if kind in settings]
    if len(forms) + ("constraint" in settings) > 1:
        raise RequestError("an answer has one constraint", f"give one of {', '.join(NAMES)}")
    for kind in forms:
        settings["constraint"] = getattr(Constraint, kind)(settings.pop(kind))
    known = SamplingParams.__dataclass_fields__
    unknown = sorted(set(settings) - set(known))
    if unknown:
        from deepseek.core.config import suggest

        raise RequestError(f"unknown setting {unknown[0]}", suggest(unknown[0], known))
    if "stop" in settings:
        stop = settings["stop"]
        settings["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return SamplingParams(**settings)
