"""Rewards that can be checked: by the verifiers of `data/verifiers`, and by patterns.

A record names its reward, or several with weights: `"reward": {"number": 1.0, "pattern": 0.2}`.
An answer that reaches at least `PASSED` of the whole weight counts as right.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from deepseek.core.config import suggest
from deepseek.core.errors import ConfigError
from deepseek.data.records import BadRecord, Quarantine, Record
from deepseek.data.verifiers.final import last_number
from deepseek.data.verifiers.gym import gym_problem
from deepseek.data.verifiers.problem import Problem
from deepseek.data.verifiers.registry import find_verifier

Judge = Callable[[str, Mapping[str, Any]], float]
"""What an answer to a record is worth, 0 to 1."""
PASSED = 0.99
LONGEST = 20_000
"""Characters of an answer that are looked at, from its end."""
GYM = "gym:"
"""Data that reasoning-gym makes: `gym:FAMILY`, `gym:FAMILY:SIZE` or `gym:FAMILY:SIZE:LEVEL`."""
GYM_SIZE = 500


def verified(name: str, answer: str, record: Mapping[str, Any]) -> float:
    """Whether a verifier takes an answer for right."""
    problem = record.get("problem")
    if problem is None:
        problem = {"question": "", "answer": str(record["answer"]), "verifier": name}
    return float(find_verifier(name).is_right(Problem(**problem), answer))


def matched(answer: str, record: Mapping[str, Any]) -> float:
    """Whether the record's regular expression is found."""
    return float(re.search(record["pattern"], answer, re.DOTALL) is not None)


REWARDS: dict[str, Judge] = {
    name: partial(verified, name) for name in ("number", "choice", "text", "gym")
} | {"pattern": matched}
"""By name."""
NEEDED = dict.fromkeys(("number", "choice", "text"), "answer") | {
    "pattern": "pattern",
    "gym": "problem",
}
"""The field of a record that each reward needs."""


def judge(answer: str, record: Mapping[str, Any], default: str) -> float:
    """What an answer is worth, by the rewards that its record names."""
    text = answer[-LONGEST:]
    weights = _weights(record, default)
    total = sum(weights.values())
    return sum(w * REWARDS[name](text, record) for name, w in weights.items()) / total


def check_record(record: Record, default: str) -> None:
    """Refuse a record that its reward cannot judge.

    Raises:
        BadRecord: A field is missing, or there is no such reward.
    """
    for name in _weights(record.values, default):
        if name not in REWARDS:
            raise BadRecord(f"there is no reward {name!r}: {suggest(str(name), REWARDS)}")
        if NEEDED[name] not in record.values:
            raise BadRecord(f"reward {name} needs the field {NEEDED[name]}")
    if "pattern" in record.values:
        try:
            re.compile(record.values["pattern"])
        except (re.error, TypeError) as error:
            raise BadRecord(f"pattern is no regular expression: {error}") from None
    if "number" in _weights(record.values, default):
        answer = str(record.values["answer"])
        if last_number(answer) is None:
            raise BadRecord(f"answer {answer[:50]!r} has no number")
    if "problem" in record.values:
        problem, known = record.values["problem"], [f.name for f in fields(Problem)]
        if not isinstance(problem, dict) or not {"question", "answer", "verifier"} <= set(problem):
            raise BadRecord("problem is no object with question, answer and verifier")
        if unknown := [key for key in problem if key not in known]:
            raise BadRecord(f"problem has {unknown[0]!r}: {suggest(unknown[0], known)}")


def gym_records(spec: str, seed: int, quarantine: Quarantine) -> Iterator[Record]:
    """Records that reasoning-gym makes, e.g. for `gym:basic_arithmetic:200`.

    Raises:
        ConfigError: There is no such family or level, or it is not offered.
        MissingDependencyError: The package is not installed.
    """
    family, *numbers = spec.removeprefix(GYM).split(":")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise ConfigError(
            f"{spec} has no size or level", "write gym:FAMILY, gym:FAMILY:SIZE or …:SIZE:LEVEL"
        )
    size, level = (*map(int, numbers), *(GYM_SIZE, 0)[len(numbers) :])
    for index in range(size):
        problem = gym_problem(family, level, seed, index)
        quarantine.n_read += 1
        values = {"prompt": problem.question, "reward": "gym", "problem": asdict(problem)}
        yield Record(f"{family}:{index}", values)


def _weights(record: Mapping[str, Any], default: str) -> dict[str, float]:
    named = record.get("reward", default)
    if isinstance(named, str):
        return {named: 1.0}
    if (
        isinstance(named, Mapping)
        and named
        and all(isinstance(w, int | float) and w > 0 for w in named.values())
    ):
        return {str(name): float(weight) for name, weight in named.items()}
    raise BadRecord("reward is neither a name nor names with weights")
