"""What may tell a wrong answer from a right one: entropies, and the baselines beside them.

Length, log-probability and p(True) are those of the greedy answer, whose fate is to be foretold.
"""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from deepseek.core.llm import LanguageModel, Message, Prompt
from deepseek.data.entropy.estimate import discrete_entropy, likelihood_entropy
from deepseek.data.entropy.sampling import Drawn, Sample

MAX_IDEAS = 6
"""Other answers that the model is shown before it judges one."""
LONGEST_IDEA = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Of one question."""

    entropy: float
    """Semantic entropy from how often each meaning was drawn, in nats."""
    likelihood_entropy: float | None
    """The same, from how likely the answers are; None: the model does not tell."""
    n_samples: int
    n_clusters: int
    agreement: float
    """Share of the most frequent meaning."""
    settled: float
    """Standard deviation of the entropy, in nats."""
    length: int
    """Tokens of the greedy answer."""
    mean_logprob: float | None
    """Nats a token of the greedy answer."""
    p_true: float | None
    """That the model gives to its greedy answer being right when asked; None: not asked."""

    @property
    def normalised(self) -> float:
        """Entropy as a share of what so many answers can have at most: 0 to 1."""
        return self.entropy / math.log(self.n_samples) if self.n_samples > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data with six digits."""
        rounded = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }
        return rounded | {"normalised": round(self.normalised, 6)}


SIGNS = {
    "entropy": 1.0,
    "likelihood_entropy": 1.0,
    "length": 1.0,
    "mean_logprob": -1.0,
    "p_true": -1.0,
}
"""By signal: 1 if more of it means that the answer is more likely wrong, -1 if less does."""


def signals(drawn: Drawn, p_true: float | None = None) -> Signals:
    """What the answers to one question tell."""
    counts = Counter(drawn.clusters)
    return Signals(
        entropy=discrete_entropy(drawn.clusters),
        likelihood_entropy=_weighted(drawn),
        n_samples=len(drawn.samples),
        n_clusters=len(counts),
        agreement=max(counts.values()) / len(drawn.samples),
        settled=drawn.settled,
        length=drawn.greedy.n_tokens,
        mean_logprob=drawn.greedy.mean_logprob,
        p_true=p_true,
    )


def ask_p_true(model: LanguageModel, question: str, drawn: Drawn) -> float:
    """The probability that the model gives to its greedy answer being right.

    Kadavath et al. (2022): it sees the question, other answers that it gave, and the answer, and
    is asked whether that is true. No worked examples.

    Raises:
        RequestError: The prompt does not fit the context window.
    """
    scores = model.score(p_true_prompt(question, drawn), ["True", "False"])
    true, false = (score.logprob for score in scores)
    return 1.0 / (1.0 + math.exp(min(700.0, false - true)))


def p_true_prompt(question: str, drawn: Drawn) -> Prompt:
    """The conversation in which the model judges its own answer."""
    ideas = list(dict.fromkeys(_shown(sample) for sample in drawn.samples))[:MAX_IDEAS]
    listed = "\n".join(f"- {idea}" for idea in ideas)
    text = (
        f"Question: {question}\n\nSome proposed answers:\n{listed}\n\n"
        f"Possible answer: {_shown(drawn.greedy)}\n\n"
        "Is the possible answer True or False? Reply with one word."
    )
    return [Message("user", text)]


def _shown(sample: Sample) -> str:
    return " ".join(sample.text.split())[-LONGEST_IDEA:] or "(none)"


def _weighted(drawn: Drawn) -> float | None:
    means = [sample.mean_logprob for sample in drawn.samples]
    if any(sample.logprob is None for sample in drawn.samples):
        return None
    texts = [sample.text for sample in drawn.samples]
    return likelihood_entropy(drawn.clusters, texts, [mean or 0.0 for mean in means])
