"""What a task is: where its items come from, how an answer is graded, and under which protocol.

A task lives in one file of `deepseek.eval.tasks` as the constant `TASK`, named in `table.py`.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepseek.core.errors import RequestError
from deepseek.core.llm import LanguageModel, Message, Prompt, Score, TextTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Answered by the likeliest of some continuations."""

    id: str
    prompt: Prompt
    choices: tuple[str, ...]
    """The continuations as they are scored, mostly with their leading space."""
    gold: int
    group: str = ""
    """A part of the task with a score of its own, e.g. a subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Answered by generated text."""

    id: str
    prompt: Prompt
    reference: Any
    """What grading needs, as plain JSON data: gold answers, tests, …"""
    max_tokens: int
    stop: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Not answered: the model only says how likely it finds the text."""

    id: str
    text: str
    prompt: Prompt = ""
    """Read before the text and not counted."""
    group: str = ""


Item = Choice | Question | Passage
Answer = Sequence[Score] | str
"""Scores of a `Choice` (one each) or a `Passage` (one in all), or the text of a `Question`."""
Grades = Mapping[str, float]
"""Metric to value. A metric `name` with a companion `name/weight` is averaged with that weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a task may ask for when it makes its items."""

    shots: int
    """Solved examples before each question."""
    chat: bool = False
    """Put prompts through the model's chat template as a question of the user."""
    folder: Path | None = None
    """The user's own data (`--data`): a file or a folder."""
    model: LanguageModel | None = None
    """Whose context window and tokens bound the prompts; None: unbounded."""
    against: LanguageModel | None = None
    """A second model, for tasks that compare two."""
    seed: int = 0
    lengths: tuple[int, ...] = ()
    """Tokens of context, for tasks that make their own texts."""
    evaluation_data: Path | None = None
    """The pulled `evaluation-data`; see `deepseek.eval.data`."""

    def need_folder(self, task: str, what: str) -> Path:
        """The user's data.

        Raises:
            RequestError: None was given.
        """
        if self.folder is None:
            raise RequestError(f"{task} needs its data", f"give it with --data: {what}")
        return self.folder


Ask = Callable[[LanguageModel, Setup, Sequence[Any]], Iterable[tuple[Item, Grades]]]
"""Asks a model some items in its own way, and grades each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One benchmark under one protocol."""

    name: str
    summary: str
    """What is asked, in one line."""
    protocol: str
    """Printed beside every score: prompt, scoring and normalisation, and whose they are."""
    metric: str
    """The headline metric."""
    items: Callable[[Setup], Iterable[Item]]
    grade: Callable[[Any, Any], Grades]
    """Grades an item's answer; `grade_choice` for choices. May run for seconds (code)."""
    ask: "Ask | None" = None
    """How the model is asked, where neither scoring nor generating is meant."""
    shots: int = 0
    """Default of solved examples."""
    max_shots: int = 0
    runs_code: bool = False
    """Whether grading runs what the model wrote, in the sandbox."""
    by_group: bool = False
    """The headline is the mean over groups, not over items."""
    licence: str = field(default="see the data's source")


def grade_choice(item: Choice, answer: Sequence[Score]) -> Grades:
    """Accuracy by sum of log-probabilities, and by three public normalisations.

    `acc_norm` divides by the characters of the continuation as lm-eval counts them (without
    the one leading space that joins it to the prompt), `acc_bytes` by bytes with it, and
    `acc_token` by tokens. `gold_bpb` is bits per byte of the right continuation.
    """
    texts = [text.removeprefix(" ") for text in item.choices]
    sizes = {
        "acc": [1.0] * len(texts),
        "acc_norm": [float(len(text)) or 1.0 for text in texts],
        "acc_bytes": [float(len(text.encode())) or 1.0 for text in item.choices],
        "acc_token": [float(score.n_tokens) for score in answer],
    }
    grades = {
        name: float(_best([a.logprob / n for a, n in zip(answer, size, strict=True)]) == item.gold)
        for name, size in sizes.items()
    }
    gold_bytes = len(item.choices[item.gold].encode())
    bits = -answer[item.gold].logprob / 0.6931471805599453
    return grades | {"gold_bpb": bits / gold_bytes, "gold_bpb/weight": float(gold_bytes)}


def _best(values: Sequence[float]) -> int:
    """The first of the largest."""
    return max(range(len(values)), key=values.__getitem__)


def as_prompt(text: str, setup: Setup) -> Prompt:
    """A text to continue, or with `--chat` a question of the user."""
    return [Message("user", text)] if setup.chat else text


def sample_items(items: Sequence[Item], limit: int | None, seed: int = 0) -> list[Item]:
    """At most `limit` items, from each group in proportion to its size, in their order."""
    if limit is None or limit >= len(items):
        return list(items)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[item.group].append(index)
    generator = random.Random(seed)
    # Largest remainders: the counts add up to the limit and no group is off by one or more.
    exact = {name: limit * len(places) / len(items) for name, places in groups.items()}
    counts = {name: int(share) for name, share in exact.items()}
    by_rest = sorted(groups, key=lambda name: (counts[name] - exact[name], name))
    for name in by_rest[: limit - sum(counts.values())]:
        counts[name] += 1
    chosen = [i for name in groups for i in generator.sample(groups[name], counts[name])]
    return [items[index] for index in sorted(chosen)]


def cut_middle(text: str, n_tokens: int, model: LanguageModel) -> str:
    """The beginning and the end of a text that is longer than `n_tokens`.

    Cuts as LongBench does: half of the tokens from either side, decoded and joined. A model
    that does not show its tokens is asked for counts instead, and characters are cut.
    """
    if isinstance(model, TextTokens):
        ids = model.encode(text)
        if len(ids) <= n_tokens:
            return text
        half = n_tokens // 2
        return model.decode(ids[:half]) + model.decode(ids[-half:])
    low, high = 0, len(text)
    if model.count_tokens(text) <= n_tokens:
        return text
    while low < high - 1:
        middle = (low + high) // 2
        kept = text[: middle // 2] + text[len(text) - middle // 2 :]
        low, high = (middle, high) if model.count_tokens(kept) <= n_tokens else (low, middle)
    return text[: low // 2] + text[len(text) - low // 2 :]
