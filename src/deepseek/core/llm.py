"""The one interface that applications and evaluation know: `LanguageModel`.

Our own engine implements it; so can an HTTP client or a ten-line fake in a test.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args, runtime_checkable

from deepseek.core.constraint import Constraint
from deepseek.core.errors import RequestError
from deepseek.core.tools import ToolCall, split_tool_calls

if TYPE_CHECKING:
    from jaxtyping import Float32
    from numpy import ndarray

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "cancelled", "constraint"]
"""Why an answer ended: it was complete or a stop string came, `max_tokens` were used up, the
caller left, or following the constraint became too costly."""
Pooling = Literal["mean", "last"]
"""Which tokens' states a text's vector is made of: all, or only the last one's."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        # Templates print the role as it is: it must not be able to carry control tokens.
        if self.role not in get_args(Role):
            raise RequestError(
                f"the role of a message is {self.role!r}", f"allowed: {', '.join(get_args(Role))}"
            )


Prompt = str | Sequence[Message]
"""Plain text to be continued, or a conversation for the chat template.

A conversation that ends with an assistant's message has that message continued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen. The defaults are greedy decoding."""

    max_tokens: int = 256
    """At most so many tokens, reasoning included: 1 to 1,000,000."""
    temperature: float = 0.0
    """Above 1 flattens, below 1 sharpens the distribution; 0 takes the likeliest: 0 to 100."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the likeliest tokens that together reach this probability: above 0, at most 1."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one: 0 to 1."""
    repetition_penalty: float = 1.0
    """Divide positive and multiply negative scores of tokens of prompt and answer: to 10."""
    frequency_penalty: float = 0.0
    """Lower a token's score by this for each time that the answer has it: -2 to 2."""
    presence_penalty: float = 0.0
    """Lower the score of tokens that the answer has by this: -2 to 2."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """Added to the scores of tokens by id: -100 (as good as never) to 100; at most 1,024 ids."""
    seed: int | None = None
    """Same seed, same answer, alone or among others: 0 to 2^63 - 1. None: another each time."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer, which does not contain them; reasoning may."""
    logprobs: int | None = None
    """Report the log-probability of each token and of this many alternatives: 0 to 50."""
    constraint: Constraint | None = None
    """The form that the answer, behind any reasoning, must have."""
    reasoning_budget: int | None = None
    """End reasoning after so many tokens: 0 to 1,000,000."""
    expert_budget: float | None = None
    """Share of the experts that a mixture would choose: above 0, at most 1. `Completion.experts`
    says what was used. None: all, and not counted."""

    def __post_init__(self) -> None:
        rules = (
            (1 <= self.max_tokens <= 1_000_000, "max_tokens", "1 to 1,000,000"),
            (0 <= self.temperature <= 100, "temperature", "0 to 100"),
            (self.top_k >= 0, "top_k", "0 or more"),
            (0 < self.top_p <= 1, "top_p", "above 0, at most 1"),
            (0 <= self.min_p <= 1, "min_p", "0 to 1"),
            (0 < self.repetition_penalty <= 10, "repetition_penalty", "above 0, at most 10"),
            (-2 <= self.frequency_penalty <= 2, "frequency_penalty", "-2 to 2"),
            (-2 <= self.presence_penalty <= 2, "presence_penalty", "-2 to 2"),
            (_is_bias(self.logit_bias), "logit_bias", "at most 1,024 token ids, each -100 to 100"),
            (self.logprobs is None or 0 <= self.logprobs <= 50, "logprobs", "0 to 50"),
            (self.seed is None or 0 <= self.seed < 2**63, "seed", "0 to 2^63 - 1"),
            # A single string would be taken for a sequence of one-letter stop strings.
            (not isinstance(self.stop, str), "stop", "a tuple of strings"),
            (len(self.stop) <= 64 and all(self.stop), "stop", "at most 64 non-empty strings"),
            (
                self.constraint is None or isinstance(self.constraint, Constraint),
                "constraint",
                "a Constraint, such as Constraint.regex(…)",
            ),
            (
                self.reasoning_budget is None or 0 <= self.reasoning_budget <= 1_000_000,
                "reasoning_budget",
                "0 to 1,000,000",
            ),
            (
                self.expert_budget is None or 0 < self.expert_budget <= 1,
                "expert_budget",
                "above 0, at most 1",
            ),
        )
        for ok, name, rule in rules:
            if not ok:
                raise RequestError(
                    f"{name} is {getattr(self, name)!r}", f"allowed: {rule}; change {name}"
                )


def _is_bias(bias: Mapping[int, float]) -> bool:
    return (
        isinstance(bias, Mapping)
        and len(bias) <= 1_024
        and all(type(i) is int and i >= 0 for i in bias)
        and all(isinstance(x, int | float) and -100 <= x <= 100 for x in bias.values())
    )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One generated token with its log-probability and the likeliest alternatives."""

    token: str
    token_id: int
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """What an answer's last token saw of all that came before it, in tokens."""

    n_tokens: int
    """Of prompt and answer, in the cache."""
    window: int
    """Just before it and always seen; with dense attention these are all."""
    sinks: int
    """The first ones, always seen."""
    recalled: int
    """That each group of heads recalled in each layer."""
    n_memory_nodes: int
    """That each group of heads has in each layer to recall by."""
    tier_bytes: dict[str, int]
    """Bytes reserved for what is remembered, by kind."""

    def describe(self) -> str:
        """For people."""
        between = self.n_tokens - self.window - self.sinks
        seen = f"the {self.window:,} before it"
        if between:
            seen += f", the first {self.sinks:,}, and {self.recalled:,} of {between:,} between"
        sizes = ", ".join(
            f"{kind} {size / 2**20:,.0f} MiB" for kind, size in self.tier_bytes.items()
        )
        return f"the last of {self.n_tokens:,} tokens saw {seen}; {sizes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsUsed:
    """Experts that a request with an `expert_budget` had, of a mixture."""

    share: float
    """That was asked for."""
    slots: int
    """Experts that a token may have in each layer."""
    by_layer: tuple[float, ...]
    """Mean of all tokens."""
    by_token: tuple[float, ...]
    """Mean of all layers, for each token of prompt and answer but the last."""

    @property
    def mean(self) -> float:
        """Experts of a token in a layer."""
        return sum(self.by_layer) / max(1, len(self.by_layer))

    def describe(self) -> str:
        """For people."""
        least, most = min(self.by_layer), max(self.by_layer)
        return (
            f"{self.mean:.2f} of {self.slots} experts a token and layer, layers from {least:.2f} "
            f"to {most:.2f}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The finished answer to one request. Times are seconds."""

    text: str
    """The answer, without reasoning."""
    token_ids: tuple[int, ...]
    """All that were generated, those of reasoning first."""
    finish_reason: FinishReason
    n_prompt_tokens: int
    n_reused_tokens: int = 0
    """Prompt tokens whose keys and values were already in the cache."""
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    logprobs: tuple[TokenLogprob, ...] = field(default=())
    attended: Attended | None = None
    """What the last token saw; not known of answers of `generate_many` and of other programs."""
    reasoning: str = ""
    """What the model wrote between `<think>` and `</think>` before its answer."""
    n_reasoning_tokens: int = 0
    n_drafted: int = 0
    """Tokens that were guessed and run beside the one before them."""
    n_accepted: int = 0
    """Of these, tokens of the answer."""
    experts: ExpertsUsed | None = None
    """What was used of a mixture, if the request had an `expert_budget`."""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The well-formed tool calls in the text, in order."""
        return split_tool_calls(self.text)[1]


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed answer; the last one carries the `Completion`."""

    text: str
    completion: Completion | None = None
    reasoning: str = ""
    """A piece of what the model writes before its answer; text is empty then."""


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a model finds a continuation, in nats."""

    logprob: float
    n_tokens: int
    is_greedy: bool
    """Whether greedy decoding would have produced exactly this continuation."""


@runtime_checkable
class LanguageModel(Protocol):
    """What a caller may ask of a model, whoever runs it."""

    @property
    def name(self) -> str:
        """A name for reports, e.g. `qwen2.5-coder-1.5b`."""
        ...

    @property
    def context_window(self) -> int:
        """Tokens that prompt and answer may take together."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` without any template around it."""
        ...

    def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> Completion:
        """Answer one prompt.

        Raises:
            RequestError: The prompt is empty or does not fit the context window.
        """
        ...

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        """Answer one prompt piece by piece; closing the iterator cancels the request."""
        ...

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[Score]:
        """Log-probability of each continuation after the same prompt, which is read once."""
        ...


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One prompt and the continuations to score after it."""

    prompt: Prompt
    continuations: tuple[str, ...]


@runtime_checkable
class BatchLanguageModel(LanguageModel, Protocol):
    """A model that serves many requests faster together than one by one.

    Requests with a common beginning should stand next to each other: it is read once.
    """

    def score_many(self, requests: Sequence[ScoreRequest]) -> Iterator[list[Score]]:
        """The scores of each request, in their order, as they are finished."""
        ...

    def generate_many(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]
    ) -> Iterator[tuple[int, Completion]]:
        """Index and answer of each prompt, as they are finished; settings for all or each."""
        ...


@runtime_checkable
class EmbeddingModel(Protocol):
    """A model that makes vectors of texts: those of texts about the same are close."""

    def embed(self, texts: Sequence[str]) -> "Float32[ndarray, 'N D']":
        """A vector of length 1 for each text.

        Raises:
            RequestError: A text is empty or does not fit the context window.
        """
        ...


@runtime_checkable
class TextTokens(Protocol):
    """A model that shows its tokens, e.g. to cut a text where the model would see the cut."""

    def encode(self, text: str) -> list[int]:
        """The token ids of `text` without any template around it."""
        ...

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of token ids."""
        ...


@runtime_checkable
class WatchedModel(Protocol):
    """A model that tells how far it is while it reads a long prompt."""

    def watched(
        self, on_prefill: Callable[[int, int], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Tell of prompt tokens read and to read, in a `with` block and in its thread.

        An exception from `on_prefill` ends the request and is passed on.
        """
        ...
