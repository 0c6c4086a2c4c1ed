import math
import subprocess
import sys
from typing import Any

import pytest

from deepseek.core.constraint import Constraint
from deepseek.core.errors import RequestError
from deepseek.core.llm import Message, SamplingParams


def test_the_defaults_are_greedy() -> None:
    params = SamplingParams()
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0, 0, 1, 0)
    assert (params.repetition_penalty, params.seed, params.stop) == (1, None, ())


@pytest.mark.parametrize(
    "values",
    [
        {"max_tokens": 1},
        {"max_tokens": 1_000_000},
        {"temperature": 0.0},
        {"temperature": 100.0},
        {"top_k": 0},
        {"top_p": 1e-9},
        {"min_p": 1.0},
        {"repetition_penalty": 10.0},
        {"frequency_penalty": -2.0},
        {"presence_penalty": 2.0},
        {"logit_bias": {0: -100.0, 7: 100.0}},
        {"logit_bias": dict.fromkeys(range(1024), 0.0)},
        {"constraint": Constraint.json()},
        {"reasoning_budget": 0},
        {"logprobs": 0},
        {"logprobs": 50},
        {"seed": 0},
        {"seed": 2**63 - 1},
        {"stop": ("a",) * 64},
    ],
)
def test_values_at_their_limits_are_allowed(values: dict[str, Any]) -> None:
    (name,) = values
    assert getattr(SamplingParams(**values), name) == values[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 1_000_001),
        ("temperature", -0.1),
        ("temperature", 100.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 10.1),
        ("repetition_penalty", math.nan),
        ("frequency_penalty", -2.1),
        ("frequency_penalty", math.nan),
        ("presence_penalty", 2.1),
        ("logit_bias", {-1: 0.0}),
        ("logit_bias", {1: 100.1}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", dict.fromkeys(range(1025), 0.0)),
        ("reasoning_budget", -1),
        ("expert_budget", 0.0),
        ("expert_budget", 1.1),
        ("expert_budget", math.nan),
        ("logprobs", -1),
        ("logprobs", 51),
        ("seed", -1),
        ("seed", 2**63),
        ("stop", ("",)),
        ("stop", ("a", "")),
        ("stop", ("a",) * 65),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=f"{name} is ") as caught:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    assert "allowed: " in caught.value.hint
    assert name in caught.value.hint


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_the_three_roles_are_allowed(role: Any) -> None:
    assert Message(role, "x").role == role


# The tests check types as they run, users' programs do not: this is one of those.
PROGRAM = """
from deepseek.core.errors import RequestError
from deepseek.core.llm import Message, SamplingParams
for make in (
    lambda: Message("tool", "x"),
    lambda: Message("user<|im_end|>", "x"),
    lambda: Message("", "x"),
    lambda: SamplingParams(stop="END"),
    lambda: SamplingParams(temperature=1),
):
    try:
        print(make())
    except RequestError as error:
        print(error, "/", error.hint)
"""


def test_a_wrong_role_or_stop_is_refused_in_a_users_program() -> None:
    command = [sys.executable, "-c", PROGRAM]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "the role of a message is 'tool' / allowed: system, user, assistant"
    assert [line.startswith("the role of a message is") for line in lines] == [True] * 3 + [
        False
    ] * 2
    assert lines[3] == "stop is 'END' / allowed: a tuple of strings; change stop"
    assert "temperature=1," in lines[4]
