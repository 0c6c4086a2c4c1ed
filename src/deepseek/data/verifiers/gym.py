"""reasoning-gym: generated problems in families with levels, and its own judges of answers.

Families are left out where a right answer can only be told by evaluating what the model wrote in
this process, where problems are not the same in every process, or that are made of a test set.
"""

import contextlib
import io
import re
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from deepseek.core.config import suggest
from deepseek.core.errors import ConfigError, MissingDependencyError
from deepseek.data.verifiers.final import final_answer, only_number
from deepseek.data.verifiers.problem import Problem
from deepseek.data.verifiers.verifier import text_key

GENERATOR = "reasoning-gym"
PREFIX = "gym/"
"""Before the family's name, to tell it from other generators' families."""
SIZE = 1_000
"""Problems of a data set; those behind come from another one."""
_MARK = re.compile(r"\banswer[ \t]*:", re.IGNORECASE)
MAX_ANSWER = 8_000
"""Characters of an answer that a judge gets to see."""
_EVALUATED = "its judge evaluates the answer as a program"
_TEST_SET = "its templates are made of GSM8K's test set"
_UNSTEADY = "its problems differ from process to process"
REFUSED = {
    "arc_agi": "it hands out ARC's own problems, test set included",
    "codeio": "it runs programs of its own without limits",
    "countdown": _EVALUATED,
    "gsm_symbolic": _TEST_SET,
    "isomorphic_strings": _UNSTEADY,
    "knight_swap": "its levels cannot be generated",
    "intermediate_integration": _EVALUATED,
    "n_queens": _EVALUATED,
    "polynomial_multiplication": _EVALUATED,
    "puzzle24": _EVALUATED,
    "sokoban": "a problem takes seconds to make",
    "ransom_note": _UNSTEADY,
    "simple_integration": _EVALUATED,
    "word_ladder": _UNSTEADY,
}
"""Families that are not offered, and why."""
EXACT = frozenset(("binary_matrix", "game_of_life_halting", "spiral_matrix", "string_insertion"))
"""Where only the reference counts: judges that would evaluate the answer to give it a part of the
points, and one that takes whatever is not `True` for `False`."""


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
    entry = _entry(family, level, seed, index)[1]
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
        dataset, entry = _entry(family, problem.level, problem.seed, problem.index)
        try:
            score = dataset.score_answer(answer, entry)
        except Exception:  # judges trip over what is no answer at all
            return False
        return bool(score >= 1.0)


def _answer(problem: Problem, text: str) -> str | None:
    """The final answer; where the reference has several lines, all that is behind `Answer:`, and
    where it is a number, of an equation the right side: `2 + 3 = 5` says 5.
    """
    if "\n" not in problem.answer:
        answer = final_answer(text, MAX_ANSWER)
        if answer is not None and "=" in answer and only_number(problem.answer) is not None:
            answer = answer.rpartition("=")[2].strip()
        return answer or None
    answer = _MARK.split(text)[-1].strip().strip("`").strip("\n")
    return answer or None


def _entry(family: str, level: int, seed: int, index: int) -> tuple[Any, Any]:
    """A data set and its entry. The package counts an entry's place and the seed together, so that
    neighbouring seeds would give the same problems: seeds are spread.
    """
    block, place = divmod(index, SIZE)
    name = f"{family} {level} {seed} {block}"
    spread = int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "little") >> 1
    with contextlib.redirect_stdout(io.StringIO()):  # some generators print
        dataset = _dataset(family, level, spread)
        return dataset, dataset[place]


@lru_cache(maxsize=64)
def _dataset(family: str, level: int, seed: int) -> Any:
    factory = _package().factory
    curriculum = _curriculum(family)
    if not 0 <= level < n_levels(family):
        raise ConfigError(
            f"{family} has no level {level}", f"its levels are 0 to {n_levels(family) - 1}"
        )
    curriculum.set_global_level(level)
    kind, _ = factory.DATASETS[family]
    try:
        config = curriculum.generate_configuration({"seed": seed, "size": SIZE})
        return kind(config=config)
    except (AssertionError, ValueError) as error:  # how the package says that settings do not fit
        raise ConfigError(
            f"{family} cannot be generated at level {level}: {error}", "choose another level"
        ) from None


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
