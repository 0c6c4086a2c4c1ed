"""Verifiers: what counts as the same answer, and what as a right one."""

import builtins
import os
import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.cli.synthesis import SandboxRunner
from deepseek.core.errors import ConfigError, MissingDependencyError
from deepseek.data.synthesis.families import all_families, check_family, make_problem, own_families
from deepseek.data.verifiers import gym
from deepseek.data.verifiers.final import final_answer, last_number, normalised, only_number
from deepseek.data.verifiers.problem import Problem
from deepseek.data.verifiers.programs import behaviour
from deepseek.data.verifiers.registry import find_verifier

RUNNER = SandboxRunner()


def problem(answer: str, verifier: str, **details: Any) -> Problem:
    return Problem(question="?", answer=answer, verifier=verifier, details=details)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 1,200.", "1200"),
        (r"so \boxed{\frac{3}{4}}", "3/4"),
        ("3 * 4 = 12\n#### -3.50", "-7/2"),
        ("Answer: **12 apples** (of 30)", "12"),
        ("Answer: 3 + 4 = 7", "7"),
        ("First 5, then 9 of them", "9"),
        ("answer: 5\nNo, answer: 6", "6"),
        ("−4", "-4"),
        ("75/100", "3/4"),
        ("0.75 euros", "3/4"),
        ("3/0", None),
        ("no idea", None),
        ("9" * 400, None),
    ],
)
def test_numbers_are_found_and_exact(text: str, number: str | None) -> None:
    assert find_verifier("number").key(problem("", "number"), text) == number


@given(st.fractions(max_denominator=10_000).filter(lambda x: abs(x) < 10**9))
def test_every_fraction_is_read_as_it_is_written(value: Fraction) -> None:
    assert last_number(f"that makes {value}") == value
    assert only_number(f" {value}. ") == value
    assert find_verifier("number").is_right(problem(str(value), "number"), f"Answer: {value}")
    assert not find_verifier("number").is_right(problem(str(value + 1), "number"), f"{value}")


@settings(max_examples=40)
@given(st.text(max_size=300))
def test_no_text_breaks_a_verifier(text: str) -> None:
    for name, answer in (("number", "3"), ("choice", "B"), ("text", "yes")):
        found = find_verifier(name).key(problem(answer, name), text)
        assert found is None or isinstance(found, str)


def test_a_near_number_is_wrong() -> None:
    verifier = find_verifier("number")
    assert not verifier.is_right(problem("0.3333", "number"), "1/3")
    assert not verifier.is_right(problem("none", "number"), "none")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (C).", "C"),
        ("B", "B"),
        ("Answer: D) 12", "D"),
        ("\n**A**\n", "A"),
        ("?", None),
    ],
)
def test_choices_are_letters(text: str, letter: str | None) -> None:
    verifier = find_verifier("choice")
    assert verifier.key(problem("C", "choice"), text) == letter
    assert verifier.is_right(problem("C", "choice"), text) == (letter == "C")


def test_texts_are_compared_by_what_they_say() -> None:
    verifier = find_verifier("text")
    assert verifier.is_right(problem("New York", "text"), "I think.\nAnswer: *new  york*.")
    assert verifier.is_right(problem("0.5", "text"), "1/2")
    assert not verifier.is_right(problem("New York", "text"), "York")
    assert final_answer("\n\n") is None
    assert normalised(" The END! ") == "the end"


def test_an_unknown_verifier_is_told() -> None:
    with pytest.raises(ConfigError, match="no verifier 'numbr'") as caught:
        find_verifier("numbr")
    assert caught.value.hint == "did you mean number?"


@pytest.mark.parametrize("family", own_families())
@pytest.mark.parametrize("level", [0, 4])
def test_own_references_are_right_and_others_wrong(family: str, level: int) -> None:
    for index in range(2 if family.startswith("programs/") else 20):
        made = make_problem(family, level, 3, index)
        verifier = find_verifier(made.verifier, RUNNER)
        shown = (
            made.answer if made.verifier == "program" else f"{made.solution}\nAnswer: {made.answer}"
        )
        assert verifier.is_right(made, shown), made
        assert not verifier.is_right(made, "Answer: -77\ndef transform(x): return -77"), made
        assert made == make_problem(family, level, 3, index)


def test_worked_solutions_end_in_the_answer() -> None:
    for name in ("ages", "journey", "purchase", "story"):
        for index in range(20):
            made = make_problem(f"words/{name}", 2, 0, index)
            assert last_number(made.solution.splitlines()[-1].removesuffix(" km/h")) == Fraction(
                made.answer
            )


def test_programs_are_alike_if_they_do_the_same() -> None:
    calls = ["f([3, 1, 2])", "f([])", "f(None)"]
    one = "def f(x):\n    return sorted(x)"
    same = "def f(values):\n    out = list(values)\n    out.sort()\n    return out"
    other = "def f(x):\n    return sorted(x, reverse=True)"
    liar = "class E(list):\n    def __repr__(self): return '[1, 2, 3]'\ndef f(x): return E(x)"
    digests = [behaviour(RUNNER, code, ["f"], calls) for code in (one, same, other, liar)]
    assert digests[0] is not None
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert behaviour(RUNNER, "g = 1", ["f"], calls) is None
    assert behaviour(RUNNER, "import os; os._exit(0)", ["f"], calls) is None


def test_a_program_is_not_judged_without_a_sandbox() -> None:
    made = make_problem("programs/lists", 0, 0, 0)
    with pytest.raises(ConfigError, match="nothing is given that runs programs"):
        find_verifier("program").is_right(made, made.answer)


def test_families_are_checked() -> None:
    check_family("gym/chain_sum", (0, 1))
    for family, said in (
        ("words/storry", "there is no family"),
        ("gym/chain_sun", "no family 'chain_sun'"),
        ("gym/countdown", "evaluates the answer as a program"),
        ("gym/gsm_symbolic", "test set"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_family(family, (0,))
    with pytest.raises(ConfigError, match="no level 99"):
        check_family("gym/chain_sum", (99,))


def test_all_families_of_the_gym_judge_their_own_references_right() -> None:
    verifier = find_verifier("gym")
    names = [name for name in all_families() if name.startswith("gym/")]
    assert len(names) > 80
    for name in names:
        made = make_problem(name, 0, 5, 2)
        assert verifier.is_right(made, f"Let me see.\nAnswer: {made.answer}"), name
        assert not verifier.is_right(made, "Answer: banana"), name
        assert verifier.key(made, f"Answer: {made.answer}") is not None, name


def test_of_an_equation_the_gym_counts_the_right_side() -> None:
    made, verifier = make_problem("gym/products", 0, 5, 2), find_verifier("gym")
    assert verifier.is_right(made, f"2 * 2 = {made.answer}")
    assert verifier.key(made, f"2 * 2 = {made.answer}.") == verifier.key(made, made.answer)
    for wrong in (
        f"{made.answer} = 2 * 1{made.answer}",
        f"2 * 2 = {made.answer}0",
        f"x {made.answer} =",
    ):
        assert not verifier.is_right(made, wrong), wrong
    assert verifier.key(made, "x =") is None


def test_problems_are_the_same_in_every_process() -> None:
    code = (
        "from hashlib import sha256\n"
        "from deepseek.data.synthesis.families import all_families, make_problem\n"
        "for name in all_families():\n"
        "    made = [make_problem(name, 0, 1, i) for i in range(3)]\n"
        "    said = ''.join(p.question + p.answer for p in made)\n"
        "    print(name, sha256(said.encode()).hexdigest())"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0].count("gym/") > 80
    assert said[0] == said[1]


def test_no_gym_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "reasoning_gym":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="reasoning-gym is not installed") as caught:
        gym.families()
    assert caught.value.hint == 'pip install "deepseek[synthesis]"'
    assert all_families() == own_families()
