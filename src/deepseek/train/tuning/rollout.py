"""Answers of the model itself to prompts, judged, in groups: what a policy learns from.

A round asks prompts for a group of answers each. Groups whose answers are all worth the same teach
nothing and are left out; other prompts are asked in their place (dynamic sampling of DAPO,
arXiv:2503.14476), up to a bound, and then such groups are taken with advantages of 0.
"""

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepseek.core.llm import Completion, Message, Prompt, SamplingParams
from deepseek.data.packed import Window
from deepseek.data.sampler import Sampler
from deepseek.data.stream import Piece
from deepseek.data.token_file import IGNORED, TokenFile
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.train.objective import Sample
from deepseek.train.tuning.config import RewardSettings
from deepseek.train.tuning.examples import DOMAIN, Prompts
from deepseek.train.tuning.replay import Ask
from deepseek.train.tuning.rewards import PASSED, judge

EPSILON = 1e-4
"""Keeps advantages of groups with hardly any deviation small."""
Measure = Callable[[list[Sample]], list[tuple[float, ...]]]
"""Log-probability of each token of some answers."""


@dataclass(frozen=True, slots=True)
class Round:
    """What a round saw, for the metrics."""

    n_groups: int
    n_same: int
    """Groups whose answers were all worth the same."""
    rewards: tuple[float, ...]
    lengths: tuple[int, ...]
    n_cut: int
    """Answers that were too long."""

    def measures(self) -> dict[str, float]:
        """As shares and means."""
        n_answers = max(1, len(self.rewards))
        return {
            "reward": statistics.fmean(self.rewards),
            "pass_rate": sum(r >= PASSED for r in self.rewards) / n_answers,
            "frac_zero_std": self.n_same / max(1, self.n_groups),
            "answer_tokens": statistics.fmean(self.lengths),
            "cut_answers": self.n_cut / n_answers,
        }


class Rollouts(Sampler):
    """Draws answers; when none are left it lets the model as it is give new ones."""

    def __init__(
        self,
        tokens: TokenFile,
        prompts: Prompts,
        ask: Ask,
        tokenizer: Tokenizer,
        settings: RewardSettings,
        *,
        n_groups: int,
        window: int,
        seed: int,
        measure: tuple[Measure | None, Measure | None] = (None, None),
    ) -> None:
        """Open the prompts.

        Args:
            tokens: The prompts' token ids.
            prompts: And what judges the answers to each.
            ask: Lets the model answer.
            tokenizer: The model's.
            settings: How answers are drawn and judged.
            n_groups: Groups of a round.
            window: Tokens of the longest prompt with its answer.
            seed: Of order and draws.
            measure: Gives log-probabilities of answers as the model is, and as it was before
                training; each None if it is not needed.

        Raises:
            ConfigError: There are no prompts.
        """
        super().__init__({DOMAIN: tokens}, window, seed, whole=True)
        self._prompts, self._ask, self._settings = prompts, ask, settings
        self._n_groups, self._first_seed = n_groups, seed
        self._now, self._before = measure
        self._end = end_of_turn(tokenizer)
        self._queue: deque[Sample] = deque()
        self._n_asked = 0
        self._number = 0
        self._round: Round | None = None

    def draw(self) -> Window:
        """The next answer."""
        if not self._queue:
            self._begin_round()
        return self._queue.popleft()

    def measures(self) -> dict[str, float]:
        """Of the round that this step's answers are of, once."""
        found, self._round = self._round, None
        return {} if found is None else found.measures()

    def state(self) -> dict[str, Any]:
        """Also what is left of the round."""
        queue = [
            {
                "ids": sample.pieces[0].ids.tolist(),
                "labels": sample.pieces[0].labels.tolist(),
                "advantage": sample.advantage,
                "logprobs": list(sample.logprobs),
                "references": list(sample.references),
            }
            for sample in self._queue
        ]
        return super().state() | {"queue": queue, "n_asked": self._n_asked}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        super().resume(state)
        self._n_asked = state["n_asked"]
        self._queue = deque(
            Sample(
                0,
                (Piece(np.array(row["ids"]), np.array(row["labels"])),),
                advantage=row["advantage"],
                logprobs=tuple(row["logprobs"]),
                references=tuple(row["references"]),
            )
            for row in state["queue"]
        )

    def _cut(self, name: str) -> Window:
        self._number = self._streams[name].number
        return super()._cut(name)

    def _begin_round(self) -> None:
        useful: list[list[Sample]] = []
        same: list[list[Sample]] = []
        rewards: list[float] = []
        answers: list[Completion] = []
        wanted, left = self._n_groups, self._n_groups * self._settings.tries
        while len(useful) < wanted and left > 0:
            n_prompts = min(left, wanted - len(useful))
            left -= n_prompts
            for group, worth, given in self._asked(n_prompts):
                (same if max(worth) == min(worth) else useful).append(group)
                rewards += worth
                answers += given
        chosen = [*useful, *same][:wanted]
        samples = [sample for group in chosen for sample in group]
        if self._now is not None:
            known = zip(samples, self._now(samples), strict=True)
            samples = [replace(sample, logprobs=own) for sample, own in known]
        if self._before is not None:
            known = zip(samples, self._before(samples), strict=True)
            samples = [replace(sample, references=own) for sample, own in known]
        # Answers again for each step on them, in the order of the groups.
        self._queue.extend(samples * self._settings.steps)
        self._round = Round(
            n_groups=len(useful) + len(same),
            n_same=len(same),
            rewards=tuple(rewards),
            lengths=tuple(len(answer.token_ids) for answer in answers),
            n_cut=sum(answer.finish_reason == "length" for answer in answers),
        )

    def _asked(self, n_prompts: int) -> list[tuple[list[Sample], list[float], list[Completion]]]:
        """Groups of answers to the next prompts, with what they are worth."""
        settings, group = self._settings, self._settings.group
        windows, numbers = [], []
        for _ in range(n_prompts):
            windows.append(super().draw())
            numbers.append(self._number)
        asked: list[Prompt] = []
        params = []
        for number in numbers:
            for _ in range(group):
                asked.append(self._prompts.messages[number])
                params.append(
                    SamplingParams(
                        max_tokens=settings.answer_tokens,
                        temperature=settings.temperature,
                        seed=self._first_seed * 1_000_003 + self._n_asked,
                    )
                )
                self._n_asked += 1
        given = self._ask(asked, params)
        found = []
        for place, (window, number) in enumerate(zip(windows, numbers, strict=True)):
            own = given[place * group : (place + 1) * group]
            record = self._prompts.records[number]
            worth = [judge(answer.text, record, settings.reward) for answer in own]
            shares = advantages(worth, scaled=settings.scaled)
            ids = window.pieces[0].ids.tolist()
            samples = [
                sample_of(ids, answer, share, self._end)
                for answer, share in zip(own, shares, strict=True)
            ]
            found.append((samples, worth, own))
        return found


def advantages(worth: Sequence[float], *, scaled: bool) -> list[float]:
    """How much better than its group each answer is, in deviations of the group if scaled."""
    mean = statistics.fmean(worth)
    deviation = statistics.stdev(worth)
    return [(w - mean) / (deviation + EPSILON) if scaled else w - mean for w in worth]


def sample_of(prompt: list[int], answer: Completion, advantage: float, end: int) -> Sample:
    """A prompt with an answer of which all tokens are learned, its end as well if it ended."""
    tokens = list(answer.token_ids)
    if answer.finish_reason == "stop" or not tokens:
        tokens.append(end)
    ids = np.array([*prompt, *tokens], dtype=np.int64)
    labels = np.full_like(ids, IGNORED)
    labels[len(prompt) - 1 : -1] = tokens
    return Sample(0, (Piece(ids, labels),), advantage=advantage)


def end_of_turn(tokenizer: Tokenizer) -> int:
    """The token by which the model's template ends an answer."""
    ids = tokenizer.encode_chat(
        [Message("user", "a"), Message("assistant", "b")], add_generation_prompt=False
    )
    return next((i for i in reversed(ids) if i in tokenizer.eos_ids), min(tokenizer.eos_ids))


def pass_rate(
    ask: Ask, prompts: Prompts, settings: RewardSettings, most: int, seed: int
) -> dict[str, float]:
    """Share of right answers and mean reward on prompts, one answer each."""
    n = min(most, len(prompts.records))
    if not n:
        return {}
    params = [
        SamplingParams(
            max_tokens=settings.answer_tokens,
            temperature=settings.temperature,
            seed=seed * 1_000_003 + number,
        )
        for number in range(n)
    ]
    answers = ask(list(prompts.messages[:n]), params)
    worth = [
        judge(answer.text, record, settings.reward)
        for answer, record in zip(answers, prompts.records[:n], strict=True)
    ]
    return {"reward": statistics.fmean(worth), "pass_rate": sum(w >= PASSED for w in worth) / n}
