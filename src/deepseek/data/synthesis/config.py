"""A run of synthesis as a TOML file describes it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deepseek.core.config import build, load_table, suggest
from deepseek.core.errors import ConfigError
from deepseek.data.entropy.attempts import Style
from deepseek.data.entropy.sampling import Sampling
from deepseek.data.synthesis.families import check_family


@dataclass(frozen=True, slots=True, kw_only=True)
class Problems:
    """Which problems are generated."""

    families: list[str]
    levels: list[int] = field(default_factory=lambda: [0, 1, 2])
    count: int = 50
    """Of each family and level."""
    seed: int = 0
    """Of the problems; answers have `sampling.seed`."""
    style: Style = "steps"
    held_out_families: list[str] = field(default_factory=list)
    """Wholly held out: nothing of them is written for training."""
    held_out: float = 0.1
    """Share of the other families' problems that is held out, by a digest of the question: the
    same question is on the same side whatever its seed, in this run and in every other one."""
    stop_below: float = 0.0
    """A family's higher levels are left out once fewer than this share of its answers are right;
    levels are then worth giving in ascending order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which problems are hard cases."""

    confident: float = 0.4
    """Up to this entropy, as a share of the largest possible, the model counts as confident."""
    unsolved: bool = False
    """Keep problems, too, that it is not confident about and never solves."""
    limit: int = 0
    """At most so many hard cases; 0: all."""
    worked: bool = True
    """Where the model has no right answer itself, show the reference worked out if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decontamination:
    """What keeps evaluation texts out."""

    index: str = ""
    """Of `deepseek eval index`; empty: nothing is looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How the work is done."""

    portion: int = 16
    """Problems side by side; a killed run does at most one portion again."""
    p_true: bool = False
    """Also ask the model whether its answer is true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisConfig:
    """All of it."""

    problems: Problems
    sampling: Sampling = field(default_factory=Sampling)
    selection: Selection = field(default_factory=Selection)
    decontamination: Decontamination = field(default_factory=Decontamination)
    run: Run = field(default_factory=Run)


def load_synthesis_config(path: Path, overrides: tuple[str, ...] = ()) -> SynthesisConfig:
    """Read and check a TOML file.

    Raises:
        ConfigError: The file is missing or no TOML, or a setting is unknown or wrong.
        MissingDependencyError: A family needs a package that is not installed.
    """
    config = config_of(load_table(path, overrides))
    index = config.decontamination.index
    if not index or Path(index).is_absolute():
        return config
    return replace(config, decontamination=Decontamination(index=str(path.parent / index)))


def config_of(table: dict[str, Any]) -> SynthesisConfig:
    """A checked config from sections of settings.

    Raises:
        ConfigError: A setting is unknown or wrong.
        MissingDependencyError: A family needs a package that is not installed.
    """
    kinds: dict[str, type[Any]] = {
        "problems": Problems,
        "sampling": Sampling,
        "selection": Selection,
        "decontamination": Decontamination,
        "run": Run,
    }
    parts = {}
    for name, section in table.items():
        if name not in kinds:
            raise ConfigError(f"unknown section [{name}]", suggest(name, kinds))
        if not isinstance(section, dict):
            raise ConfigError(f"{name} is no section", f"write [{name}]")
        values = dict(section)
        _check_lists(name, values)
        if name == "sampling" and isinstance(values.get("stop"), list):
            values["stop"] = tuple(values["stop"])
        parts[name] = build(kinds[name], values, f"{name}.")
    if "problems" not in parts:
        raise ConfigError("it is not said which problems", "add [problems] with families = […]")
    config = SynthesisConfig(**parts)
    _check(config)
    return config


def _check_lists(section: str, values: dict[str, Any]) -> None:
    """What lists hold; the rest is checked as a dataclass is built."""
    kinds = {"families": str, "held_out_families": str, "levels": int, "stop": str}
    for key, value in values.items():
        if isinstance(value, list) and any(type(one) is not kinds.get(key) for one in value):
            hint = "whole numbers" if key == "levels" else "texts"
            raise ConfigError(f"{section}.{key} is {value!r}", f"it must be a list of {hint}")


def _check(config: SynthesisConfig) -> None:
    wanted, selection = config.problems, config.selection
    rules = (
        ("problems.families", bool(wanted.families), "one or more"),
        ("problems.levels", bool(wanted.levels), "one or more"),
        ("problems.count", 1 <= wanted.count <= 1_000_000, "1 to 1,000,000"),
        ("problems.seed", 0 <= wanted.seed < 2**31, "0 to 2^31 - 1"),
        ("problems.held_out", 0 <= wanted.held_out < 1, "0 to below 1"),
        ("problems.stop_below", 0 <= wanted.stop_below <= 1, "0 to 1"),
        ("selection.confident", 0 <= selection.confident <= 1, "0 to 1"),
        ("selection.limit", selection.limit >= 0, "0 or more"),
        ("run.portion", 1 <= config.run.portion <= 1_024, "1 to 1,024"),
    )
    for name, ok, allowed in rules:
        if not ok:
            section, _, key = name.partition(".")
            value = getattr(getattr(config, section), key)
            raise ConfigError(f"{name} is {value!r}", f"allowed: {allowed}")
    names = [*wanted.families, *wanted.held_out_families]
    for family in dict.fromkeys(names):
        check_family(family, tuple(wanted.levels))
