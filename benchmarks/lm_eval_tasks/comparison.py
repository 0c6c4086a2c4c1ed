"""Our records beside what lm-eval logged, and the reasons for what differs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deepseek.core.llm import Score
from deepseek.engine.engine import Engine
from deepseek.eval.record import Record
from deepseek.eval.task import Choice, Item, grade_choice
from deepseek.tokenizer.tokenizer import Tokenizer
from report import Row

Triple = tuple[Item, Record, list[dict[str, Any]]]
"""An item, our record, and lm-eval's samples of it, one for each of its filters."""
GRADES = {
    "acc": ("none", "acc"),
    "acc_norm": ("none", "acc_norm"),
    "strict_match": ("strict-match", "exact_match"),
    "flexible_match": ("flexible-extract", "exact_match"),
}
"""Our metric; lm-eval's filter and metric."""


@dataclass
class Comparison:
    """How far two runs of a task agree."""

    name: str
    n: int
    same_prompts: int = 0
    same_answers: int = 0
    """Items with the same likeliest choice, or the same text."""
    graded: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Our grade and lm-eval's, by metric."""
    largest: float = 0.0
    """Difference of a log-probability, over all choices that are the same tokens."""
    differences: list[dict[str, Any]] = field(default_factory=list)

    def rows(self) -> list[Row]:
        """For the results file."""
        share = "share of items"
        rows = [
            Row(f"{self.name}: same prompt", self.same_prompts / self.n, share, must=1.0),
            Row(f"{self.name}: same answer", self.same_answers / self.n, share),
        ]
        for metric, pairs in self.graded.items():
            ours, theirs = (100 * sum(side) / len(pairs) for side in zip(*pairs, strict=True))
            rows.append(Row(f"{self.name}: {metric}", ours, "%", "lm-eval 0.4.13", theirs))
            same = sum(a == b for a, b in pairs) / len(pairs)
            rows.append(Row(f"{self.name}: same {metric}", same, share))
        if self.largest:
            name = f"{self.name}: largest difference of a log-probability"
            rows.append(Row(name, self.largest, "nats", better="lower"))
        return rows

    def lines(self) -> list[str]:
        """For people who watch."""
        rows = [f"  {row.name}: {row.value:.6g} {row.unit}" for row in self.rows()]
        return rows + [f"  differs: {difference}" for difference in self.differences]

    def grade(self, ours: dict[str, float], samples: Sequence[dict[str, Any]]) -> list[str]:
        """Put grades side by side; names the metrics that differ."""
        by_filter = {sample["filter"]: sample for sample in samples}
        differing = []
        for metric, (filtered, theirs) in GRADES.items():
            value = by_filter.get(filtered, {}).get(theirs)
            if metric in ours and value is not None:
                self.graded.setdefault(metric, []).append((ours[metric], float(value)))
                if ours[metric] != float(value):
                    differing.append(metric)
        return differing


def compare_choices(name: str, triples: Sequence[Triple], tokenizer: Tokenizer) -> Comparison:
    """Log-probabilities, likeliest choices and grades."""
    comparison = Comparison(name, len(triples))
    for item, record, samples in triples:
        assert isinstance(item, Choice)
        asked = [(item.prompt, choice) for choice in item.choices]
        same_prompt = asked == [tuple(pair) for pair in samples[0]["arguments"]]
        comparison.same_prompts += same_prompt
        ours = [score[0] for score in record.scores]
        theirs = [float(one[0]) for one in samples[0]["filtered_resps"]]
        same_tokens = [_joint_is_apart(tokenizer, str(item.prompt), c) for c in item.choices]
        for one, two, same in zip(ours, theirs, same_tokens, strict=True):
            if same and same_prompt:
                comparison.largest = max(comparison.largest, abs(one - two))
        same_answer = _best(ours) == _best(theirs)
        comparison.same_answers += same_answer
        # Their scores under our rule must give their grade: the rules are the same.
        scores = [Score(value, 1, False) for value in theirs]
        by_our_rule = comparison.grade(dict(record.grades), samples)
        for metric in ("acc", "acc_norm"):
            if metric in samples[0]:
                assert grade_choice(item, scores)[metric] == samples[0][metric], item.id
        if not (same_prompt and same_answer) or by_our_rule:
            comparison.differences.append(
                {
                    "id": item.id,
                    "same_prompt": same_prompt,
                    "graded_otherwise": by_our_rule,
                    "same_tokens": same_tokens,
                    "ours": ours,
                    "lm_eval": theirs,
                    "our_margin": _margin(ours),
                    "their_margin": _margin(theirs),
                    **({} if same_prompt else {"prompts": [asked[0], samples[0]["arguments"][0]]}),
                }
            )
    return comparison


def compare_texts(name: str, triples: Sequence[Triple], engine: Engine) -> Comparison:
    """Generated texts and their grades."""
    comparison = Comparison(name, len(triples))
    for item, record, samples in triples:
        prompt, text = samples[0]["arguments"][0][0], samples[0]["resps"][0][0]
        same_prompt = item.prompt == prompt
        comparison.same_prompts += same_prompt
        comparison.same_answers += record.output == text
        differing = comparison.grade(dict(record.grades), samples)
        if same_prompt and record.output == text and not differing:
            continue
        difference: dict[str, Any] = {
            "id": item.id,
            "same_prompt": same_prompt,
            "graded_otherwise": differing,
        }
        if not same_prompt:
            difference["prompts"] = [item.prompt, prompt]
        elif record.output != text:
            difference |= _fork(engine, str(item.prompt), record.output, text)
        comparison.differences.append(difference)
    return comparison


def _fork(engine: Engine, prompt: str, ours: str, theirs: str) -> dict[str, Any]:
    """Where two answers part, and how much likelier the one next token is than the other."""
    mine, other = engine.encode(ours), engine.encode(theirs)
    n = next((i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), None)
    if n is None:
        shorter = min(len(mine), len(other))
        return {"one_ends_after": shorter, "ours_goes_on": ours[len(theirs) :][:80]}
    shared = engine.decode(mine[:n])
    pieces = (engine.decode(mine[n : n + 1]), engine.decode(other[n : n + 1]))
    first, second = engine.score(prompt + shared, pieces)
    return {"same_tokens": n, "next": pieces, "margin": first.logprob - second.logprob}


def _joint_is_apart(tokenizer: Tokenizer, prompt: str, choice: str) -> bool:
    """Whether prompt and choice give the same tokens together, as lm-eval has it, and apart."""
    stripped = prompt.rstrip()  # lm-eval moves what ends the prompt to the choice
    apart = tokenizer.encode(prompt) + tokenizer.encode(choice)
    return stripped == prompt and apart == tokenizer.encode(prompt + choice)


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _margin(values: Sequence[float]) -> float:
    first, second = sorted(values, reverse=True)[:2]
    return first - second
