"""Answers drawn from a model, no more than are needed to know how much they differ.

Questions are worked on side by side in rounds. In each round those whose estimate is not settled
get some more answers. A question's answers follow from its own seed, never from its neighbours.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from deepseek.core.errors import ConfigError
from deepseek.core.llm import (
    BatchLanguageModel,
    Completion,
    LanguageModel,
    Prompt,
    SamplingParams,
)
from deepseek.data.entropy.clusters import Clusters
from deepseek.data.entropy.estimate import uncertainty

MAX_SAMPLES = 64
Cluster = Callable[[int, Sequence[str]], Clusters]
"""Clusters of the answers to the question with this number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How many answers are drawn, and how."""

    samples: int = 10
    """At most, beside the greedy one: 2 to 64."""
    first: int = 4
    """Before it is asked whether these are enough; `samples`: that is not asked."""
    step: int = 2
    """More at a time where they are not."""
    tolerance: float = 0.17
    """Nats: they are enough when the entropy is settled to this standard deviation. So four answers
    with as many meanings are, and of answers that all say the same it takes eight."""
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: bool = True
    """Ask for log-probabilities; without them there is no likelihood-weighted entropy."""

    def __post_init__(self) -> None:
        rules = (
            ("samples", 2 <= self.samples <= MAX_SAMPLES, f"2 to {MAX_SAMPLES}"),
            ("first", 2 <= self.first <= self.samples, "2 to samples"),
            ("step", self.step >= 1, "1 or more"),
            ("tolerance", 0 <= self.tolerance < math.inf, "0 or more"),
            ("temperature", 0 < self.temperature <= 100, "above 0: greedy answers are all alike"),
            ("seed", 0 <= self.seed < 2**31, "0 to 2^31 - 1"),
        )
        for name, ok, allowed in rules:
            if not ok:
                raise ConfigError(f"{name} is {getattr(self, name)}", f"allowed: {allowed}")


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer."""

    text: str
    n_tokens: int
    logprob: float | None
    """Nats, of all tokens together; None: the model does not tell."""

    @property
    def mean_logprob(self) -> float | None:
        """Nats a token; an empty answer has none."""
        return None if self.logprob is None or not self.n_tokens else self.logprob / self.n_tokens


@dataclass(frozen=True, slots=True)
class Drawn:
    """The answers to one question."""

    greedy: Sample
    samples: list[Sample]
    clusters: Clusters
    """Of the samples."""
    settled: float
    """Standard deviation of the entropy, in nats."""


def draw(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    names: Sequence[str],
    cluster: Cluster,
    sampling: Sampling,
) -> list[Drawn]:
    """A greedy answer and samples for each prompt.

    Args:
        model: Whose meaning is in question.
        prompts: The questions.
        names: Of the questions; each one's seeds follow from its name.
        cluster: Puts the answers to a question into clusters.
        sampling: How many, and how.

    Raises:
        RequestError: A prompt cannot be answered, or the model cannot sample.
    """
    greedy: list[Sample | None] = [None] * len(prompts)
    samples: list[list[Sample]] = [[] for _ in prompts]
    found: dict[int, Drawn] = {}
    while active := [i for i in range(len(prompts)) if i not in found]:
        asked: list[tuple[int, int | None]] = []
        for i in active:
            there = len(samples[i])
            more = min(sampling.step, sampling.samples - there) if there else sampling.first
            start = first_seed(names[i], sampling.seed) + there
            asked += [] if there else [(i, None)]
            asked += [(i, start + j) for j in range(more)]
        answers = _generate(
            model, [prompts[i] for i, _ in asked], [_params(sampling, seed) for _, seed in asked]
        )
        for (i, seed), answer in zip(asked, answers, strict=True):
            if seed is None:
                greedy[i] = _sample(answer)
            else:
                samples[i].append(_sample(answer))
        for i in active:
            clusters = cluster(i, [sample.text for sample in samples[i]])
            settled, first = uncertainty(clusters), greedy[i]
            if len(samples[i]) >= sampling.samples or settled <= sampling.tolerance:
                assert first is not None
                found[i] = Drawn(first, samples[i], clusters, settled)
    return [found[i] for i in range(len(prompts))]


def first_seed(name: str, seed: int) -> int:
    """The seed of a question's first answer; the next ones follow it."""
    digest = blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest, "little")


def _params(sampling: Sampling, seed: int | None) -> SamplingParams:
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=0.0 if seed is None else sampling.temperature,
        top_p=1.0 if seed is None else sampling.top_p,
        seed=seed,
        stop=sampling.stop,
        logprobs=0 if sampling.logprobs else None,
    )


def _generate(
    model: LanguageModel, prompts: Sequence[Prompt], params: Sequence[SamplingParams]
) -> list[Completion]:
    if not isinstance(model, BatchLanguageModel):
        return [model.generate(p, one) for p, one in zip(prompts, params, strict=True)]
    found = dict(model.generate_many(prompts, params))
    return [found[i] for i in range(len(prompts))]


def _sample(completion: Completion) -> Sample:
    n_tokens = len(completion.logprobs) or len(completion.token_ids)
    has_logprobs = bool(completion.logprobs) or not completion.token_ids
    total = math.fsum(token.logprob for token in completion.logprobs)
    return Sample(completion.text, n_tokens, total if has_logprobs else None)
