"""Any server with OpenAI's HTTP API: llama.cpp, vLLM, Ollama, a hosted model, our own."""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from deepseek.core.errors import MissingDependencyError, RequestError
from deepseek.core.llm import (
    Completion,
    Delta,
    FinishReason,
    Prompt,
    SamplingParams,
    Score,
    ScoreRequest,
)

if TYPE_CHECKING:
    from jaxtyping import Float32
    from numpy import ndarray

EMBEDDED = 64
"""Texts in one request."""
CHARACTERS_A_TOKEN = 4
"""A rough count of tokens: the API has none."""
RETRIES = 4
PROBE = "The quick brown fox jumps over the lazy"
TOLERANCE = 0.5
"""Nats between the same log-probability as generated and as echoed; caches round differently."""


class ServedModel:
    """A model behind a URL such as `http://localhost:8000/v1`."""

    def __init__(
        self,
        url: str,
        name: str | None = None,
        *,
        context_window: int | None = None,
        concurrency: int = 8,
        timeout: float = 600.0,
    ) -> None:
        """Connect, and ask what is served if no name is given.

        The key comes from `$OPENAI_API_KEY`; a local server needs none. What fails for a moment
        (no connection, too many requests, an error of the server) is tried again a few times, each
        time later, unless the answer has begun to stream.

        Args:
            url: Where the API begins.
            name: Of the model; None: the first one that is served.
            context_window: Tokens that it takes; None: not known.
            concurrency: Requests in flight at once.
            timeout: Seconds in which something must come from the server.

        Raises:
            MissingDependencyError: The `openai` package is not installed.
            RequestError: The server is out of reach or serves nothing.
        """
        try:
            import openai
        except ImportError:
            raise MissingDependencyError(
                "the openai package is not installed", "pip install 'deepseek[eval]'"
            ) from None
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            timeout=timeout,
            max_retries=RETRIES,
        )
        self._concurrency, self._timeout = concurrency, timeout
        self._probing = threading.Lock()
        self._echoes = False
        self.name = name or self._served()
        self.weights = f"served at {url}"
        self.context_window = context_window or 1_000_000

    def count_tokens(self, text: str) -> int:
        """An estimate: the API does not count."""
        return -(-len(text.encode("utf-8", "replace")) // CHARACTERS_A_TOKEN)

    def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> Completion:
        """Answer one prompt.

        Raises:
            RequestError: The server refuses, is out of reach, or does not answer in time.
        """
        answer = self._ask(prompt, params or SamplingParams())
        choice = self._choice(answer)
        said = choice if isinstance(prompt, str) else choice.message
        text = said.text if isinstance(prompt, str) else said.content
        return _completion(
            text or "",
            getattr(said, "reasoning_content", None) or "",
            choice.finish_reason,
            answer.usage,
        )

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        """Answer one prompt piece by piece; closing the iterator closes the connection, by which
        the server learns that nobody wants the rest.

        Raises:
            RequestError: As `generate`, by this call; from the iterator if the answer breaks off.
        """
        events = self._ask(
            prompt,
            params or SamplingParams(),
            stream=True,
            stream_options={"include_usage": True},
        )
        return self._pieces(events)

    def _ask(self, prompt: Prompt, params: SamplingParams, **more: Any) -> Any:
        settings = _settings(params) | more
        if isinstance(prompt, str):
            if params.constraint is not None:
                raise RequestError("this API constrains conversations only", "give messages")
            return self._call(self._client.completions.create, prompt=prompt, **settings)
        turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
        settings |= _continued(prompt)
        return self._call(self._client.chat.completions.create, messages=turns, **settings)

    def _choice(self, answer: Any) -> Any:
        """The only answer among those that came.

        Raises:
            RequestError: None came.
        """
        if not answer.choices:
            raise RequestError("the server gave no answer", "see its log")
        return answer.choices[0]

    def _pieces(self, events: Any) -> Iterator[Delta]:
        text, reasoning, reason, usage = "", "", None, None
        with events:
            for event in self._named(events):
                usage = event.usage or usage
                if not event.choices:
                    continue
                choice = event.choices[0]
                reason = choice.finish_reason or reason
                said = getattr(choice, "delta", choice)
                thought = getattr(said, "reasoning_content", None) or ""
                piece = getattr(said, "content" if said is not choice else "text", None) or ""
                text, reasoning = text + piece, reasoning + thought
                if thought:
                    yield Delta("", reasoning=thought)
                if piece:
                    yield Delta(piece)
        if reason is None:
            raise _broken_off()
        yield Delta("", _completion(text, reasoning, reason, usage))

    def _named(self, events: Any) -> Iterator[Any]:
        """The same events, with errors that say what happened."""
        try:
            yield from events
        except self._openai.APITimeoutError:
            raise self._too_late() from None
        except self._openai.APIConnectionError:
            raise _broken_off() from None
        except self._openai.APIError as error:
            raise RequestError(f"the server answered: {str(error)[:300]}", "see its log") from None

    def _too_late(self) -> RequestError:
        return RequestError(
            f"{self._client.base_url} said nothing for {self._timeout:g} s",
            "ask for fewer tokens, or give a longer timeout",
        )

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[Score]:
        """Log-probability of each continuation, from the server's echo of the whole text.

        Raises:
            RequestError: The prompt is a conversation, or the server does not echo.
        """
        if not isinstance(prompt, str):
            raise RequestError(
                "a conversation cannot be scored over this API", "score without --chat"
            )
        self._check_echo()
        return [self._score_one(prompt, text) for text in continuations]

    def score_many(self, requests: Sequence[ScoreRequest]) -> Iterator[list[Score]]:
        """The scores of many requests, in their order, several in flight."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            yield from pool.map(lambda r: self.score(r.prompt, r.continuations), requests)

    def generate_many(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]
    ) -> Iterator[tuple[int, Completion]]:
        """Index and answer of each prompt, as they are finished, several in flight."""
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        with ThreadPoolExecutor(self._concurrency) as pool:
            pairs = zip(prompts, each, strict=True)
            flying = {pool.submit(self.generate, p, one): i for i, (p, one) in enumerate(pairs)}
            for future in as_completed(flying):
                yield flying[future], future.result()

    def embed(self, texts: Sequence[str]) -> "Float32[ndarray, 'N D']":
        """A vector of length 1 for each text, as the server makes them.

        Raises:
            RequestError: The server serves none, refuses, or gives what are no vectors.
        """
        import numpy as np

        vectors: list[list[float]] = []
        for start in range(0, len(texts), EMBEDDED):
            part = list(texts[start : start + EMBEDDED])
            answer = self._call(self._client.embeddings.create, input=part, encoding_format="float")
            found = {one.index: one.embedding for one in answer.data}
            if sorted(found) != list(range(len(part))):
                raise RequestError("the server left out texts", "see its log")
            vectors += [found[i] for i in range(len(part))]
        if len({len(vector) for vector in vectors}) > 1:
            raise RequestError("the server's vectors differ in length", "see its log")
        made = np.array(vectors, dtype=np.float32)
        length = np.linalg.norm(made, axis=-1, keepdims=True)
        if not (np.isfinite(length).all() and (length > 0).all()):
            raise RequestError("the server's vectors are no directions", "see its log")
        scaled: ndarray = made / length
        return scaled

    def _served(self) -> str:
        served = self._call(self._client.models.list).data
        if not served:
            raise RequestError("the server serves no model", "load one there first")
        return str(served[0].id)

    def _check_echo(self) -> None:
        """Once: a token that the server generates must have the same value when it is echoed.

        llama-cpp-python, for one, puts each token's value one place too early.
        """
        with self._probing:
            if self._echoes:
                return
            answer = self._call(
                self._client.completions.create,
                prompt=PROBE,
                max_tokens=1,
                temperature=0,
                logprobs=1,
            )
            found = answer.choices[0].logprobs
            if not getattr(found, "token_logprobs", None):
                raise _no_echo()
            echoed = self._score_one(PROBE, answer.choices[0].text)
            if abs(echoed.logprob - float(found.token_logprobs[0])) > TOLERANCE:
                raise RequestError(
                    "the server misplaces the log-probabilities of a given text",
                    "run tasks with generated answers, or a server with a right echo (e.g. vLLM)",
                )
            self._echoes = True

    def _score_one(self, prompt: str, text: str) -> Score:
        answer = self._call(
            self._client.completions.create,
            prompt=prompt + text,
            max_tokens=1,
            temperature=0,
            logprobs=1,
            echo=True,
            model=self.name,
        )
        found = answer.choices[0].logprobs
        offsets = getattr(found, "text_offset", None) or []
        if not offsets or len(offsets) < 2:
            raise _no_echo()
        # Offsets count characters of the echoed text; the last token is the new one.
        own = [
            i for i, at in enumerate(offsets) if len(prompt) <= at < len(prompt) + len(text)
        ] or [len(offsets) - 2]
        total = sum(found.token_logprobs[i] or 0.0 for i in own)
        tops = found.top_logprobs or []
        greedy = all(
            bool(tops[i]) and max(tops[i], key=tops[i].get) == found.tokens[i]
            for i in own
            if i < len(tops)
        )
        return Score(float(total), len(own), bool(tops) and greedy)

    def _call(self, method: Any, **arguments: Any) -> Any:
        if method != self._client.models.list:
            arguments.setdefault("model", getattr(self, "name", ""))
        try:
            return method(**arguments)
        except self._openai.APITimeoutError:
            raise self._too_late() from None
        except self._openai.APIConnectionError:
            raise RequestError(
                f"{self._client.base_url} cannot be reached", "is the server running?"
            ) from None
        except self._openai.APIStatusError as error:
            message = str(error)[:300]
            raise RequestError(f"the server answered: {message}", "see its log") from None


def _completion(text: str, reasoning: str, reason: str | None, usage: Any) -> Completion:
    ended: FinishReason = "length" if reason == "length" else "stop"
    return Completion(
        text=text,
        token_ids=(),
        finish_reason=ended,
        n_prompt_tokens=usage.prompt_tokens if usage else 0,
        reasoning=reasoning,
    )


def _broken_off() -> RequestError:
    return RequestError("the server broke its answer off", "see its log, and ask again")


def _no_echo() -> RequestError:
    return RequestError(
        "the server does not report the log-probabilities of a given text",
        "run tasks with generated answers, or a server with echo (e.g. vLLM)",
    )


def _settings(params: SamplingParams) -> dict[str, Any]:
    if params.expert_budget is not None:
        raise RequestError("this API knows no expert_budget", "leave it out")
    settings: dict[str, Any] = {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
    }
    if params.constraint is not None:
        if params.constraint.kind != "json_schema":
            raise RequestError(
                f"this API knows no {params.constraint.name} as a constraint", "use a JSON schema"
            )
        schema = {"name": "answer", "schema": json.loads(params.constraint.source), "strict": True}
        settings["response_format"] = {"type": "json_schema", "json_schema": schema}
    if params.frequency_penalty:
        settings["frequency_penalty"] = params.frequency_penalty
    if params.presence_penalty:
        settings["presence_penalty"] = params.presence_penalty
    if params.logit_bias:
        settings["logit_bias"] = {str(i): value for i, value in params.logit_bias.items()}
    if params.stop:
        settings["stop"] = list(params.stop)
    if params.seed is not None:
        settings["seed"] = params.seed
    return settings


def _continued(prompt: Prompt) -> dict[str, Any]:
    """What vLLM and SGLang want to hear to continue an assistant's message; llama.cpp just does."""
    if isinstance(prompt, str) or prompt[-1].role != "assistant":
        return {}
    return {"extra_body": {"continue_final_message": True, "add_generation_prompt": False}}
