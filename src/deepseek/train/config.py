"""A training run as one TOML file: sections into frozen dataclasses, mistakes with a hint."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepseek.core.config import build, load_table, suggest
from deepseek.core.errors import ConfigError
from deepseek.data.mixture import DynamicSettings, Weight, check_weights
from deepseek.train.optimiser import OptimiserSettings
from deepseek.train.parallel import ParallelSettings
from deepseek.train.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Of the steps."""

    seed: int = 0
    window: int = 512
    """Tokens that are read together."""
    batch: int = 16
    """Windows of a step."""
    micro: int = 4
    """Windows of a pass; more take more memory, and no number of them changes the result."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of products; weights, gradients and the optimiser stay in float32."""
    precision: Literal["plain", "fp8"] = "plain"
    """`fp8`: what the products of blocks multiply is rounded to FP8 first; all else is `dtype`."""
    clip: float = 1.0
    """Longest gradient of a step."""
    spike: float = 10.0
    """A step whose gradient is so many times longer than usual is left out; 0 for never."""
    z_loss: float = 0.0
    recompute: bool = False
    """Compute activations again instead of keeping them: a third more work, much less memory."""
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if min(self.window, self.batch, self.micro) < 1 or self.window > 1 << 24:
            raise ConfigError(
                f"run.window is {self.window}, batch {self.batch}, micro {self.micro}",
                "use 1 or more",
            )
        if self.clip <= 0 or self.z_loss < 0 or not (self.spike == 0 or self.spike > 1):
            raise ConfigError(
                f"run.clip is {self.clip}, z_loss {self.z_loss}, spike {self.spike}",
                "clip is positive, z_loss 0 or more, spike 0 or above 1",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """A vocabulary that is there, or one that is learned from the sources."""

    checkpoint: str | None = None
    """Whose; the model's own if it is a checkpoint."""
    vocab_size: int = 4_096
    """Of one that is learned."""
    sample: int = 20_000_000
    """Characters that it is learned from."""
    digits: Literal["together", "single"] = "together"
    """`single`: every digit is a token of its own, which makes sums easier to learn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """Texts of one kind."""

    paths: list[str]
    """Files, and folders whose text files are taken; `.jsonl` has a `text` in each line."""
    kind: Literal["texts", "conversations"] = "texts"
    """Of `conversations`, `.jsonl` files of records as for tuning, only answers are learned."""
    domain: str | None = None
    """The group of experts that its texts go to; None: the gate chooses among all."""

    def __post_init__(self) -> None:
        if not self.paths or not all(isinstance(path, str) for path in self.paths):
            raise ConfigError(f"paths is {self.paths!r}", 'name files or folders: ["my/texts"]')


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSettings:
    """A part of the run with a mix of its own."""

    name: str
    tokens: int
    weights: dict[str, Any]
    """By source: a number, or points along the stage; sources without one are left out."""
    pacing: float = 0.0
    """From 0, a random order, to 1, the easiest documents first (-1: the hardest)."""
    rate: float = 1.0
    """Factor of the optimiser's rate."""
    schedule: dict[str, Any] | None = None
    """A schedule of its own; without one the run's goes on."""

    def __post_init__(self) -> None:
        if self.tokens < 1 or not -1 <= self.pacing <= 1 or self.rate <= 0:
            raise ConfigError(
                f"stage {self.name}: tokens is {self.tokens}, pacing {self.pacing}, "
                f"rate {self.rate}",
                "tokens and rate are positive, pacing is from -1 to 1",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureSettings:
    """Whether weights follow progress."""

    dynamic: bool = False
    settings: DynamicSettings = field(default_factory=DynamicSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """Bits per byte on texts that nothing is learned from."""

    every: int = 100
    """Steps."""
    held_out: float = 0.01
    """Share of each source's documents."""
    paths: list[str] = field(default_factory=list)
    """More texts, which must not be among the sources."""
    tokens: int = 20_000
    """Most of a set."""

    def __post_init__(self) -> None:
        if self.every < 1 or not 0 <= self.held_out <= 0.5 or self.tokens < 1:
            raise ConfigError(
                f"evaluation.every is {self.every}, held_out {self.held_out}, tokens {self.tokens}",
                "every and tokens are 1 or more, held_out a share up to 0.5",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """When the state is saved, and what becomes of the last ones."""

    every: int = 100
    """Steps."""
    keep: int = 2
    average: int = 1
    """The result is the mean of so many last checkpoints' weights."""

    def __post_init__(self) -> None:
        if min(self.every, self.keep, self.average) < 1:
            raise ConfigError(
                f"checkpoint.every is {self.every}, keep {self.keep}, average {self.average}",
                "use 1 or more",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecontaminationSettings:
    """Keeps evaluation texts out."""

    index: str | None = None
    """A file of `deepseek eval index`."""
    action: Literal["drop", "refuse"] = "drop"
    """With a document that repeats one: leave it out, or end with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainableSettings:
    """What may change."""

    only: list[str] = field(default_factory=list)
    """Names of parameters, with `*`, and rows as in `name[0:4]`; empty: everything."""
    groups: list[str] = field(default_factory=list)
    """Groups of experts that are trained alone; empty: everything."""

    def __post_init__(self) -> None:
        if self.only and self.groups:
            raise ConfigError("trainable has both only and groups", "use one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """A whole run."""

    folder: Path
    """What relative paths are relative to."""
    run: RunSettings
    model: dict[str, Any]
    """`checkpoint`, or `preset` with changes, or a `[model]` section written out."""
    tokenizer: TokenizerSettings
    sources: dict[str, SourceSettings]
    stages: list[StageSettings]
    optimiser: OptimiserSettings
    schedule: Schedule
    mixture: MixtureSettings
    evaluation: EvaluationSettings
    checkpoint: CheckpointSettings
    decontamination: DecontaminationSettings
    trainable: TrainableSettings
    parallel: ParallelSettings

    def path(self, name: str) -> Path:
        """A path as the file means it."""
        return self.folder / Path(name).expanduser()

    def n_steps(self, stage: StageSettings) -> int:
        """Steps of a stage, the last one whole."""
        return -(-stage.tokens // (self.run.batch * self.run.window))

    def stage_schedule(self, stage: StageSettings) -> Schedule | None:
        """The schedule of its own that a stage has."""
        if stage.schedule is None:
            return None
        return build(Schedule, stage.schedule, f"stages.{stage.name}.schedule.")

    def identity(self) -> dict[str, Any]:
        """All settings that a result depends on, flat; a run is resumed under the same ones."""
        table = asdict(self)
        for name in ("folder", "checkpoint", "evaluation", "parallel"):
            del table[name]
        for name in ("micro", "recompute", "device", "threads"):
            del table["run"][name]
        table["evaluation"] = {"held_out": self.evaluation.held_out}
        return json.loads(json.dumps(dict(_flat(table, ""))))  # type: ignore[no-any-return]


_SECTIONS: dict[str, type] = {
    "run": RunSettings,
    "tokenizer": TokenizerSettings,
    "optimiser": OptimiserSettings,
    "schedule": Schedule,
    "evaluation": EvaluationSettings,
    "checkpoint": CheckpointSettings,
    "decontamination": DecontaminationSettings,
    "trainable": TrainableSettings,
    "parallel": ParallelSettings,
}


def load_training_config(path: Path, overrides: tuple[str, ...] = ()) -> TrainingConfig:
    """Read a file; `--set` wins over it, and it over the defaults.

    Raises:
        ConfigError: The file, a key or a value is wrong.
    """
    table = load_table(path, overrides)
    known = [*_SECTIONS, "model", "sources", "stages", "mixture"]
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"unknown section [{key}] in {path}", suggest(key, known))
        if not isinstance(value, list if key == "stages" else dict):
            raise ConfigError(f"{key} is no section", f"write [{key}], or [[stages]] for stages")
    sections: dict[str, Any] = {
        name: build(kind, table.get(name, {}), f"{name}.") for name, kind in _SECTIONS.items()
    }
    sources = {
        name: build(SourceSettings, _table(values, f"sources.{name}"), f"sources.{name}.")
        for name, values in table.get("sources", {}).items()
    }
    stages = [
        build(StageSettings, _table(values, "stages"), "stages.")
        for values in table.get("stages", [])
    ]
    mixture = dict(table.get("mixture", {}))
    is_dynamic = mixture.pop("dynamic", False)
    settings = build(DynamicSettings, mixture, "mixture.")
    if not isinstance(is_dynamic, bool):
        raise ConfigError(f"mixture.dynamic is {is_dynamic!r}", "it must be true or false")
    config = TrainingConfig(
        folder=path.absolute().parent,
        model=table.get("model", {}),
        sources=sources,
        stages=stages,
        mixture=MixtureSettings(dynamic=is_dynamic, settings=settings),
        **sections,
    )
    _check(config)
    return config


def _check(config: TrainingConfig) -> None:
    if not config.sources:
        raise ConfigError("there are no sources", 'add [sources.NAME] with paths = ["…"]')
    if not config.stages:
        raise ConfigError("there are no stages", "add [[stages]] with name, tokens, weights")
    names = [stage.name for stage in config.stages]
    if len(set(names)) != len(names):
        raise ConfigError(f"stages are called {', '.join(names)}", "give each its own name")
    for stage in config.stages:
        weights: Mapping[str, Weight] = stage.weights
        check_weights(list(config.sources), weights)
        config.stage_schedule(stage)
    is_partial = bool(config.trainable.only or config.trainable.groups)
    if config.parallel.data == "sharded" and is_partial:
        raise ConfigError(
            "[trainable] names parts of the model, and parallel.data is sharded",
            'parts are trained with data = "whole"',
        )
    own = [stage.schedule is not None for stage in config.stages]
    if any(own) and not all(own):
        raise ConfigError(
            "some stages have a schedule and some do not",
            "give every stage one, or none: then [schedule] runs over all of them",
        )


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}", f"write it as a section: [{where}]")
    return value


def _flat(value: Any, where: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(where, value)]
    parts = ((f"{where}.{name}" if where else name, inner) for name, inner in value.items())
    return [pair for name, inner in parts for pair in _flat(inner, name)]
