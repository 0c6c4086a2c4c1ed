"""Rewards that can be checked: numbers, exact texts, patterns, verifiers of reasoning-gym.

A record names its reward, or several with weights: `"reward": {"number": 1.0, "pattern": 0.2}`.
An answer that reaches at least `PASSED` of the whole weight counts as right.
"""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from deepseek.core.config import suggest
from deepseek.core.errors import ConfigError, MissingDependencyError
from deepseek.data.records import BadRecord, Quarantine, Record

Judge = Callable[[str, Mapping[str, Any]], float]
"""What an answer to a record is worth, 0 to 1."""
PASSED = 0.99
LONGEST = 20_000
"""Characters of an answer that are looked at, from its end."""
GYM = "gym:"
"""Data that reasoning-gym makes: `gym:NAME` or `gym:NAME:SIZE`."""
GYM_SIZE = 500
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_MARKED = re.compile(r"####[ \t]*([^\n]+)|\\boxed\{([^{}]*)\}|<answer>(.*?)</answer>", re.DOTALL)

REWARDS: dict[str, Judge] = {}
"""By name; each knows the fields of a record that it needs."""


def reward(name: str) -> Callable[[Judge], Judge]:
    """Register a reward."""

    def registered(judge: Judge) -> Judge:
        REWARDS[name] = judge
        return judge

    return registered


@reward("number")
def number(answer: str, record: Mapping[str, Any]) -> float:
    """Whether the last number, or the one that is marked as the answer, is the right one."""
    wanted, found = last_number(str(record["answer"])), last_number(answer)
    return float(wanted is not None and wanted == found)


@reward("exact")
def exact(answer: str, record: Mapping[str, Any]) -> float:
    """Whether it is the wanted text, but for space and case."""
    return float(_plain(marked(answer)) == _plain(str(record["answer"])))


@reward("pattern")
def pattern(answer: str, record: Mapping[str, Any]) -> float:
    """Whether the record's regular expression is found."""
    return float(re.search(record["pattern"], answer, re.DOTALL) is not None)


@reward("gym")
def gym(answer: str, record: Mapping[str, Any]) -> float:
    """What the verifier of a reasoning-gym data set gives, 0 to 1."""
    score = _gym().get_score_answer_fn(record["dataset"])
    return float(score(answer=marked(answer).strip(), entry=dict(record["entry"])))


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
    needed = {"number": "answer", "exact": "answer", "pattern": "pattern", "gym": "entry"}
    for name in _weights(record.values, default):
        if name not in REWARDS:
            raise BadRecord(f"there is no reward {name!r}: {suggest(str(name), REWARDS)}")
        if needed.get(name, "prompt") not in record.values:
            raise BadRecord(f"reward {name} needs the field {needed[name]}")
    if "pattern" in record.values:
        try:
            re.compile(record.values["pattern"])
        except (re.error, TypeError) as error:
            raise BadRecord(f"pattern is no regular expression: {error}") from None
    if "number" in _weights(record.values, default):
        answer = str(record.values["answer"])
        if last_number(answer) is None:
            raise BadRecord(f"answer {answer[:50]!r} has no number")


def last_number(text: str) -> Fraction | None:
    """The last number of a text, exactly; of what is marked as the answer if something is."""
    found = _NUMBER.findall(marked(text))
    if not found:
        return None
    try:
        return Fraction(found[-1].replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def marked(text: str) -> str:
    """What stands last behind `####`, in `\\boxed{}` or in `<answer>`; else the whole text."""
    found = _MARKED.findall(text)
    return next((part for part in found[-1] if part), "") if found else text


def gym_records(spec: str, seed: int, quarantine: Quarantine) -> Iterator[Record]:
    """Records that reasoning-gym makes, e.g. for `gym:basic_arithmetic:200`.

    Raises:
        ConfigError: There is no such data set.
        MissingDependencyError: The package is not installed.
    """
    name, _, size = spec.removeprefix(GYM).partition(":")
    if size and not size.isdecimal():
        raise ConfigError(f"{spec} has no size", "write gym:NAME or gym:NAME:SIZE")
    package = _gym()
    try:
        found = package.create_dataset(name, size=int(size or GYM_SIZE), seed=seed)
    except ValueError as error:
        raise ConfigError(f"reasoning-gym: {error}"[:300], "see its list of data sets") from None
    for place, entry in enumerate(found):
        quarantine.n_read += 1
        values = {"prompt": entry["question"], "reward": "gym", "dataset": name, "entry": entry}
        yield Record(f"{name}:{place}", values)


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


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _gym() -> Any:
    try:
        return importlib.import_module("reasoning_gym")
    except ImportError:
        raise MissingDependencyError(
            "reasoning-gym is not installed", 'pip install "deepseek[synthesis]"'
        ) from None
