"""All families of generated problems by name: `gym/…`, `words/…`, `programs/…`."""

from collections.abc import Callable

from deepseek.core.config import suggest
from deepseek.core.errors import ConfigError, MissingDependencyError
from deepseek.data.synthesis import programs, words
from deepseek.data.synthesis.programs import PROGRAMS, program_problem
from deepseek.data.synthesis.words import WORDS, word_problem
from deepseek.data.verifiers import gym
from deepseek.data.verifiers.problem import Problem

Make = Callable[[str, int, int, int], Problem]
"""From a family's name without its kind, a level, a seed and an index."""
KINDS: dict[str, Make] = {
    "gym": gym.gym_problem,
    "words": word_problem,
    "programs": program_problem,
}


def own_families() -> dict[str, int]:
    """Families that need no other package, and how many levels they have."""
    return {f"words/{name}": words.N_LEVELS for name in WORDS} | {
        f"programs/{name}": programs.N_LEVELS for name in PROGRAMS
    }


def all_families() -> dict[str, int]:
    """Every family with its number of levels; without reasoning-gym, our own only."""
    try:
        found = {gym.PREFIX + name: gym.n_levels(name) for name in gym.families()}
    except MissingDependencyError:
        found = {}
    return own_families() | found


def check_family(family: str, levels: tuple[int, ...]) -> None:
    """Refuse what cannot be generated.

    Raises:
        ConfigError: There is no such family or level.
        MissingDependencyError: The package that it needs is not installed.
    """
    kind, _, name = family.partition("/")
    if kind == "gym":
        n_levels = gym.n_levels(name)
    elif family in own_families():
        n_levels = own_families()[family]
    else:
        known = [*own_families(), "gym/chain_sum"]
        raise ConfigError(f"there is no family {family!r}", suggest(family, known))
    for level in levels:
        if not 0 <= level < n_levels:
            raise ConfigError(
                f"{family} has no level {level}", f"its levels are 0 to {n_levels - 1}"
            )


def make_problem(family: str, level: int, seed: int, index: int) -> Problem:
    """One problem; always the same for the same arguments.

    Raises:
        ConfigError: There is no such family or level.
        MissingDependencyError: The package that it needs is not installed.
    """
    kind, _, name = family.partition("/")
    return KINDS[kind](name, level, seed, index)
