"""Rewards that can be checked, and how answers to one prompt are compared."""

import statistics
from typing import Any

import pytest

from deepseek.core.errors import ConfigError
from deepseek.core.llm import Completion
from deepseek.data.records import BadRecord, Quarantine, Record
from deepseek.data.token_file import IGNORED
from deepseek.train.tuning.rewards import check_record, gym_records, judge
from deepseek.train.tuning.rollout import advantages, sample_of


def test_judges() -> None:
    assert judge("it is 4.0", {"answer": 4}, "number") == 1
    assert judge("it is 5", {"answer": 4}, "number") == 0
    assert judge(" Yes. ", {"answer": "yes"}, "text") == 1
    assert judge("I think (B).", {"answer": "B"}, "choice") == 1
    assert judge(r"thus \boxed{8} of 10", {"answer": "8"}, "number") == 1
    both = {"answer": "4", "pattern": "^Answer", "reward": {"number": 3, "pattern": 1}}
    assert judge("Answer 4", both, "number") == 1
    assert judge("4", both, "number") == 0.75
    assert judge("Answer 5", both, "number") == 0.25


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({}, "needs the field answer"),
        ({"answer": "none"}, "has no number"),
        ({"reward": "numbr", "answer": "1"}, "did you mean number"),
        ({"reward": "pattern", "pattern": "("}, "no regular expression"),
        ({"reward": {"number": -1}, "answer": "1"}, "names with weights"),
        ({"reward": 7}, "names with weights"),
        ({"reward": "gym", "problem": {"question": "2 + 2?"}}, "no object with question"),
    ],
)
def test_records_that_cannot_be_judged_say_why(values: dict, why: str) -> None:
    with pytest.raises(BadRecord, match=why):
        check_record(Record("x:1", values), "number")


def test_advantages_are_deviations_from_the_group() -> None:
    worth = [1.0, 0.0, 0.0, 1.0]
    found = advantages(worth, scaled=True)
    assert found[0] == pytest.approx(0.5 / (statistics.stdev(worth) + 1e-4))
    assert sum(found) == pytest.approx(0)
    assert advantages(worth, scaled=False) == [0.5, -0.5, -0.5, 0.5]
    assert advantages([1.0] * 4, scaled=True) == [0.0] * 4


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_an_answer_learns_its_end_only_if_it_ended(reason: Any) -> None:
    answer = Completion(text="x", token_ids=(7, 8), finish_reason=reason, n_prompt_tokens=3)
    piece = sample_of([1, 2, 3], answer, 0.5, end=9).pieces[0]
    ended = [9] if reason == "stop" else []
    assert piece.ids.tolist() == [1, 2, 3, 7, 8, *ended]
    assert piece.labels.tolist() == [IGNORED, IGNORED, 7, 8, *ended, IGNORED]


def test_reasoning_gym() -> None:
    pytest.importorskip("reasoning_gym")
    quarantine = Quarantine()
    records = list(gym_records("gym:leg_counting:5", 1, quarantine))
    assert len(records) == quarantine.n_read == 5
    for record in records:
        check_record(record, "number")
        right = record.values["problem"]["answer"]
        assert judge(f"Answer: {right}", record.values, "number") == 1
        assert judge("Answer: x", record.values, "number") == 0
    with pytest.raises(ConfigError, match="reasoning-gym"):
        list(gym_records("gym:no_such_thing", 1, quarantine))
    with pytest.raises(ConfigError, match="not offered"):  # its judge runs what was written
        list(gym_records("gym:countdown", 1, quarantine))
    with pytest.raises(ConfigError, match="no size"):
        list(gym_records("gym:leg_counting:many", 1, quarantine))
