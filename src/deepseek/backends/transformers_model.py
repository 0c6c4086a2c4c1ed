"""The transformers library's own model classes, on the same weights: the reference to check by."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float32
from numpy import ndarray
from torch import Tensor

from deepseek.core.device import choose_compute
from deepseek.core.errors import ConfigError, MissingDependencyError, RequestError
from deepseek.core.llm import Completion, Delta, FinishReason, Prompt, SamplingParams, Score
from deepseek.tokenizer.prompt import encode_pair, encode_prompt
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.weights.pull import ensure
from deepseek.weights.source import WeightSource, describe_formats, open_weights


class TransformersModel:
    """Greedy answers and scores through transformers, one request at a time."""

    def __init__(
        self, name: str, *, dtype: str = "auto", device: str = "auto", threads: int | None = None
    ) -> None:
        """Load a named checkpoint, a GGUF file or a safetensors folder.

        Raises:
            MissingDependencyError: transformers is not installed.
            ConfigError: A setting or the architecture is not supported.
            DownloadError: The checkpoint cannot be fetched.
            CheckpointError: The weights are damaged.
        """
        compute = choose_compute(device, dtype, threads)
        checkpoint = ensure(name)
        source = open_weights(checkpoint.path)
        self.tokenizer = (
            Tokenizer.from_folder(source.folder)
            if source.folder is not None
            else Tokenizer.from_gguf_metadata(source.metadata)
        )
        self.model = load_transformers(source, compute.dtype).to(compute.device)
        self.name = f"{checkpoint.name} (transformers)"
        dtype_name = str(compute.dtype).removeprefix("torch.")
        self.weights = f"{describe_formats(source)}; computed in {dtype_name}"
        self.context_window = int(self.model.config.max_position_embeddings)

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`."""
        return len(self.tokenizer.encode(text))

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        return self.tokenizer.encode(text)

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(token_ids)

    @torch.inference_mode()
    def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> Completion:
        """Answer one prompt greedily.

        Raises:
            RequestError: The prompt is empty or too long, or sampling is asked for.
        """
        params = params or SamplingParams()
        if params.temperature or params.logprobs is not None or params.constraint is not None:
            raise RequestError(
                "this backend answers greedily only", "use temperature 0, and no constraint"
            )
        if params.frequency_penalty or params.presence_penalty or params.logit_bias:
            raise RequestError("this backend knows no bias or such penalties", "leave them out")
        if params.expert_budget is not None:
            raise RequestError("this backend knows no expert_budget", "leave it out")
        ids = encode_prompt(self.tokenizer, prompt)
        self._require_room(len(ids), params.max_tokens)
        start = time.perf_counter()
        batch = torch.tensor([ids], device=self.model.device)
        output = self.model.generate(
            batch,
            attention_mask=torch.ones_like(batch),
            do_sample=False,
            max_new_tokens=params.max_tokens,
            repetition_penalty=params.repetition_penalty,
            eos_token_id=sorted(self.tokenizer.eos_ids),
            pad_token_id=min(self.tokenizer.eos_ids, default=0),
            stopping_criteria=[_stopped_at(self.tokenizer, len(ids), params.stop)],
        )
        new = output[0, len(ids) :].tolist()
        ended = bool(new) and new[-1] in self.tokenizer.eos_ids
        new = new[:-1] if ended else new
        text, stopped = _until(self.tokenizer.decode(new), params.stop)
        reason: FinishReason = "stop" if ended or stopped else "length"
        return Completion(
            text=text,
            token_ids=tuple(new),
            finish_reason=reason,
            n_prompt_tokens=len(ids),
            decode_seconds=time.perf_counter() - start,
        )

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        """The whole answer as one piece."""
        completion = self.generate(prompt, params)
        yield Delta(completion.text, completion)

    @torch.inference_mode()
    def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[Score]:
        """Log-probability of each continuation, each read with the whole prompt."""
        ids, encoded = encode_pair(self.tokenizer, prompt, continuations)
        self._require_room(len(ids), max(map(len, encoded)))
        return [self._score_one(ids, own) for own in encoded]

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Float32[ndarray, "N D"]:
        """The mean of each text's last hidden states, scaled to length 1.

        Raises:
            RequestError: A text is empty or too long.
        """
        vectors = []
        for text in texts:
            ids = encode_prompt(self.tokenizer, text)
            self._require_room(len(ids), 0)
            batch = torch.tensor([ids], device=self.model.device)
            states = self.model.base_model(batch).last_hidden_state[0].float()
            vectors.append(torch.nn.functional.normalize(states.mean(0), dim=0).cpu())
        return torch.stack(vectors).numpy()

    def _score_one(self, prompt: list[int], own: list[int]) -> Score:
        logits = self.logits([*prompt, *own])[len(prompt) - 1 : -1]
        logprobs = logits.log_softmax(-1)[torch.arange(len(own)), own]
        is_greedy = logits.argmax(-1).tolist() == own
        return Score(float(logprobs.double().sum()), len(own), is_greedy)

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[int]) -> Float[Tensor, "T V"]:
        """Float32 logits after each token of one sequence."""
        batch = torch.tensor([list(token_ids)], device=self.model.device)
        logits: Tensor = self.model(batch).logits[0].float()
        return logits

    def _require_room(self, n_prompt: int, n_new: int) -> None:
        if n_prompt + n_new > self.context_window:
            raise RequestError(
                f"prompt ({n_prompt} tokens) and answer (up to {n_new}) exceed "
                f"the context window of {self.context_window}",
                "shorten the prompt or lower max_tokens",
            )


def load_transformers(source: WeightSource, dtype: torch.dtype) -> Any:
    """transformers' model class with the tensors that our reader dequantises.

    Raises:
        MissingDependencyError: transformers is not installed.
        ConfigError: The architecture is not supported.
    """
    try:
        import transformers
    except ImportError:
        raise MissingDependencyError(
            "transformers is not installed", "pip install 'deepseek[reference]'"
        ) from None
    classes: dict[str, tuple[Any, Any]] = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    }
    config = source.config()
    family = config.pop("model_type", None)
    if family not in classes:
        raise ConfigError(f"architecture {family!r}", f"supported: {', '.join(classes)}")
    config_class, model_class = classes[family]
    for key in ("eos_token_id", "torch_dtype", "dtype", "architectures"):
        config.pop(key, None)
    model: Any = model_class.from_pretrained(
        None,
        config=config_class(**config, eos_token_id=None, attn_implementation="sdpa"),
        state_dict={name: source.tensor(name, dtype) for name in source.names()},
        dtype=dtype,
    )
    return model.eval()


def _stopped_at(tokenizer: Tokenizer, n_prompt: int, stop: tuple[str, ...]) -> Any:
    """A criterion that ends the answer once a stop string is in it."""
    from transformers import StoppingCriteria

    class StopStrings(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Tensor | None, **settings: Any) -> Tensor:
            text = tokenizer.decode(input_ids[0, n_prompt:].tolist())
            found = any(mark in text for mark in stop)
            return torch.tensor([found], device=input_ids.device)

    return StopStrings()


def _until(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there is one."""
    places = [place for mark in stop if (place := text.find(mark)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
