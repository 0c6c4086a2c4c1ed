"""reasoning-gym: generated problems in families with levels, and its own judges of answers.

Families are left out where a right answer can only be told by evaluating what the model wrote in
this process, where problems are not the same in every process, or that are made of a test set.
"""

import re
from functools import lru_cache
from typing import Any

from deepseek.core.config import suggest
from deepseek.core.errors import ConfigError, MissingDependencyError
from deepseek.data.verifiers.final import final_answer
from deepseek.data.verifiers.problem import Problem
from deepseek.data.verifiers.verifier import text_key

GENERATOR = "reasoning-gym"
PREFIX = "gym/"
"""Before the family's name, to tell it from other generators' families."""
_MARK = re.compile(r"\banswer[ \t]*:", re.IGNORECASE)
MAX_ANSWER = 2_000
"""Characters of an answer that a judge gets to see."""
_EVALUATED = "its judge evaluates the answer as a program"
_TEST_SET = "its templates are made of GSM8K's test set"
_UNSTEADY = "its problems differ from process to process"
REFUSED = {
    "codeio": "it runs programs of its own without limits",
    "countdown": _EVALUATED,
    "gsm_symbolic": _TEST_SET,
    "intermediate_integration": _EVALUATED,
    "n_queens": _EVALUATED,
    "polynomial_multiplication": _EVALUATED,
    "puzzle24": _EVALUATED,
    "simple_integration": _EVALUATED,
}
"""Families that are not offered, and why."""
EXACT = frozenset(("binary_matrix", "spiral_matrix", "string_insertion"))
"""Whose judges would evaluate an answer, too, but only to give a part of the points."""


def families() -> list[str]:
    """Those that are offered: with levels, and none of `REFUSED`.

    Raises:
        MissingDependencyError: reasoning-gym is not installed.
    """
    curricula = _package().factory.CURRICULA
    return sorted(name for name in curricula if name not in REFUSED)


def n_levels(family: str) -> int:
    """Levels of a family, of its longest scale.

    Raises:
        ConfigError: There is no such family.
        MissingDependencyError: reasoning-gym is not installed.
    """
    attributes = _curriculum(family).attributes.values()
    return max((len(attribute.levels) for attribute in attributes), default=1)


def gym_problem(family: str, level: int, seed: int, index: int) -> Problem:
    """One problem; always the same for the same arguments and version.

    Raises:
        ConfigError: There is no such family or level.
        MissingDependencyError: reasoning-gym is not installed.
    """
    entry = _dataset(family, level, seed)[index]
    return Problem(
        question=str(entry["question"]).strip(),
        answer=str(entry["answer"]),
        verifier=GymVerifier.name,
        generator=f"{GENERATOR} {_version()}",
        family=PREFIX + family,
        level=level,
        seed=seed,
        index=index,
    )


class GymVerifier:
    """Equal to the reference, or fully right by the family's own judge."""

    name = "gym"
    form = "the answer"

    def key(self, problem: Problem, text: str) -> str | None:
        """The final answer in one form."""
        answer = _answer(problem, text)
        return None if answer is None else text_key(answer)

    def is_right(self, problem: Problem, text: str) -> bool:
        """Whether it is the reference, or as good."""
        answer = _answer(problem, text)
        if answer is None or len(answer) > MAX_ANSWER:
            return False
        if answer == problem.answer.strip() or text_key(answer) == text_key(problem.answer):
            return True
        family = problem.family.removeprefix(PREFIX)
        if family in EXACT:
            return False
        dataset = _dataset(family, problem.level, problem.seed)
        try:
            score = dataset.score_answer(answer, dataset[problem.index])
        except Exception:  # judges trip over what is no answer at all
            return False
        return bool(score >= 1.0)


def _answer(problem: Problem, text: str) -> str | None:
    """The final answer; where the reference has several lines, all that is behind `Answer:`."""
    if "\n" not in problem.answer:
        return final_answer(text)
    answer = _MARK.split(text)[-1].strip().strip("`").strip("\n")
    return answer or None


@lru_cache(maxsize=256)
def _dataset(family: str, level: int, seed: int) -> Any:
    factory = _package().factory
    curriculum = _curriculum(family)
    if not 0 <= level < n_levels(family):
        raise ConfigError(
            f"{family} has no level {level}", f"its levels are 0 to {n_levels(family) - 1}"
        )
    curriculum.set_global_level(level)
    config = curriculum.generate_configuration({"seed": seed, "size": 1 << 20})
    kind, _ = factory.DATASETS[family]
    return kind(config=config)


def _curriculum(family: str) -> Any:
    if family in REFUSED:
        raise ConfigError(f"{family} is not offered: {REFUSED[family]}", "choose another family")
    package = _package()
    if family not in package.factory.CURRICULA:
        raise ConfigError(f"reasoning-gym has no family {family!r}", suggest(family, families()))
    return package.factory.create_curriculum(family)


def _package() -> Any:
    try:
        import reasoning_gym
    except ImportError:
        raise MissingDependencyError(
            "reasoning-gym is not installed", 'pip install "deepseek[synthesis]"'
        ) from None
    return reasoning_gym


@lru_cache(maxsize=1)
def _version() -> str:
    from importlib.metadata import version

    return version(GENERATOR)
