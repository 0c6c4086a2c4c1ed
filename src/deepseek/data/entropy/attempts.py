"""What a model does with a problem: its answers, what they say, and which of them are right."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

from deepseek.core.llm import LanguageModel, Message
from deepseek.data.entropy.clusters import Clusters, by_key
from deepseek.data.entropy.sampling import Cluster, Drawn, Sample, Sampling, draw, first_seed
from deepseek.data.entropy.signals import ask_p_true, signals
from deepseek.data.verifiers.problem import Problem
from deepseek.data.verifiers.programs import ProgramRunner
from deepseek.data.verifiers.registry import find_verifier
from deepseek.data.verifiers.verifier import Verifier

Style = Literal["direct", "steps"]
"""Whether the model is asked for the answer alone, or to work it out first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One answer with its verdict."""

    text: str
    n_tokens: int
    logprob: float | None
    is_right: bool
    cluster: int
    """Among the problem's samples; -1 for the greedy answer."""
    seed: int | None
    """None: greedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One problem with all answers to it."""

    id: str
    family: str
    level: int
    index: int
    prompt: str
    greedy: Judged
    samples: tuple[Judged, ...]
    signals: dict[str, Any]

    @property
    def pass_rate(self) -> float:
        """Share of the samples that are right."""
        return sum(sample.is_right for sample in self.samples) / len(self.samples)

    @property
    def usual(self) -> tuple[Judged, ...]:
        """The samples of the most frequent meaning; of equals the first."""
        counts = Counter(sample.cluster for sample in self.samples)
        most = max(counts, key=lambda cluster: (counts[cluster], -cluster))
        return tuple(sample for sample in self.samples if sample.cluster == most)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a line of JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "Attempt":
        """From a line of the journal."""
        samples = tuple(Judged(**sample) for sample in row["samples"])
        return cls(**{**row, "greedy": Judged(**row["greedy"]), "samples": samples})


def prompt_of(problem: Problem, form: str, style: Style) -> str:
    """The words in which a problem is put to a model."""
    if problem.verifier == "program":
        return f"{problem.question}\nReply with {form}."
    if style == "direct":
        return f"{problem.question}\nReply with {form} alone."
    return f"{problem.question}\nThink step by step. End with a line `Answer: ` and {form}."


def attempt(
    model: LanguageModel,
    problems: Sequence[Problem],
    sampling: Sampling,
    style: Style,
    *,
    runner: ProgramRunner | None = None,
    p_true: bool = False,
    cluster: Cluster | None = None,
) -> list[Attempt]:
    """Let a model answer some problems side by side, and judge each answer.

    Args:
        model: To answer.
        problems: With verifiers that can judge them.
        sampling: How many answers are drawn, and how.
        style: How the problems are put.
        runner: Runs programs, if there are problems of that kind.
        p_true: Also ask the model whether its answer is true.
        cluster: Puts answers into clusters; None: by the verifiers' keys.

    Raises:
        RequestError: A prompt cannot be answered, or the sandbox failed.
    """
    verifiers = [find_verifier(problem.verifier, runner) for problem in problems]
    prompts = [prompt_of(p, v.form, style) for p, v in zip(problems, verifiers, strict=True)]
    keys = [_Keys(p, v) for p, v in zip(problems, verifiers, strict=True)]
    drawn = draw(
        model,
        [[Message("user", prompt)] for prompt in prompts],
        [problem.id for problem in problems],
        cluster or (lambda i, texts: keys[i].clusters(texts)),
        sampling,
    )
    return [
        _attempt(
            problem,
            prompt,
            one,
            key,
            sampling,
            ask_p_true(model, problem.question, one) if p_true else None,
        )
        for problem, prompt, one, key in zip(problems, prompts, drawn, keys, strict=True)
    ]


class _Keys:
    """What texts say and whether they are right; each text is judged once."""

    def __init__(self, problem: Problem, verifier: Verifier) -> None:
        self.key = lru_cache(maxsize=None)(lambda text: verifier.key(problem, text))
        self.is_right = lru_cache(maxsize=None)(lambda text: verifier.is_right(problem, text))

    def clusters(self, texts: Sequence[str]) -> Clusters:
        """Texts with equal keys say the same; one without a key is like nothing else."""
        return by_key([self.key(text) for text in texts])


def _attempt(
    problem: Problem,
    prompt: str,
    drawn: Drawn,
    keys: _Keys,
    sampling: Sampling,
    p_true: float | None,
) -> Attempt:
    def judged(sample: Sample, cluster: int, seed: int | None) -> Judged:
        return Judged(
            text=sample.text,
            n_tokens=sample.n_tokens,
            logprob=None if sample.logprob is None else round(sample.logprob, 6),
            is_right=keys.is_right(sample.text),
            cluster=cluster,
            seed=seed,
        )

    start = first_seed(problem.id, sampling.seed)
    return Attempt(
        id=problem.id,
        family=problem.family,
        level=problem.level,
        index=problem.index,
        prompt=prompt,
        greedy=judged(drawn.greedy, -1, None),
        samples=tuple(
            judged(sample, cluster, start + i)
            for i, (sample, cluster) in enumerate(zip(drawn.samples, drawn.clusters, strict=True))
        ),
        signals=signals(drawn, p_true).to_dict(),
    )
