"""Settings of a fine-tuning run: defaults, a TOML file over them, options over both."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from deepseek.adapt.lora import LoraSettings
from deepseek.core.config import build, load_table, suggest
from deepseek.core.errors import ConfigError
from deepseek.train.config import CheckpointSettings
from deepseek.train.objective import ClipSettings, PreferenceSettings
from deepseek.train.optimiser import OptimiserSettings
from deepseek.train.schedule import Schedule

Method = Literal["sft", "dpo", "grpo"]
RATES: dict[str, float] = {"sft": 2e-4, "dpo": 5e-5, "grpo": 5e-5}
"""Highest learning rates of low-rank tuning; tuning all weights takes a tenth."""
SELF = "self"
"""As general data: answers that the base gives itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSettings:
    """Of the run."""

    method: Method = "sft"
    full: bool = False
    """Change all weights instead of adding low-rank ones."""
    quantised: bool = False
    """Keep the frozen weights as the checkpoint stores them: the least memory, more work."""
    window: int = 1_024
    """Tokens of a record; what is behind is cut off."""
    batch: int = 16
    """Records of a step."""
    micro: int = 8
    """Records of a pass, behind each other without padding; no number changes the result."""
    epochs: float = 2.0
    """How often the data are read."""
    steps: int | None = None
    """Instead of epochs."""
    seed: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of frozen weights and products; what learns stays in float32."""
    clip: float = 1.0
    """Longest gradient of a step."""
    recompute: bool = False
    """Compute activations again instead of keeping them."""
    threads: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.window, self.batch, self.micro, self.steps or 1)
        if min(numbers) < 1 or self.window > 1 << 20 or not 0 < self.epochs <= 1_000:
            raise ConfigError(
                f"tune.window is {self.window}, batch {self.batch}, micro {self.micro}, "
                f"epochs {self.epochs}, steps {self.steps}",
                "use 1 or more; epochs are above 0",
            )
        if self.clip <= 0:
            raise ConfigError(f"tune.clip is {self.clip}", "it is positive")
        if self.full and self.quantised:
            raise ConfigError(
                "all weights are to change, and to stay quantised", "drop --full or --quantised"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MixSettings:
    """General data beside the domain's, against forgetting."""

    general: str | None = None
    """A file or folder; `self`: the base's own answers; None: none."""
    ratio: float = 3.0
    """Records of the domain for each general one."""
    answers: int = 64
    """Of the base's own, at most."""
    answer_tokens: int = 192
    """Longest of them."""
    temperature: float = 1.0
    """By which they are drawn."""
    seeds: str | None = None
    """A text file with a beginning a line for them; None: some that come with the package."""

    def __post_init__(self) -> None:
        numbers = (self.answers, self.answer_tokens)
        if self.ratio <= 0 or min(numbers) < 1 or not 0 <= self.temperature <= 100:
            raise ConfigError(
                f"mix.ratio is {self.ratio}, answers {self.answers}, "
                f"answer_tokens {self.answer_tokens}, temperature {self.temperature}",
                "ratio is positive, answers and answer_tokens 1 or more, temperature 0 to 100",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSettings:
    """Of rewards: how answers are drawn and judged."""

    reward: str = "number"
    """For records that name none themselves."""
    group: int = 8
    """Answers to each prompt."""
    answer_tokens: int = 128
    """Longest answer."""
    temperature: float = 1.0
    steps: int = 1
    """Of the optimiser on the answers of one round; above 1, ratios are clipped."""
    tries: int = 4
    """Prompts that are asked for each that is needed, before groups without variance are taken."""
    scaled: bool = True
    """Divide advantages by the deviation of the group."""

    def __post_init__(self) -> None:
        if self.group < 2 or min(self.answer_tokens, self.steps, self.tries) < 1:
            raise ConfigError(
                f"reward.group is {self.group}, answer_tokens {self.answer_tokens}, "
                f"steps {self.steps}, tries {self.tries}",
                "group is 2 or more, the others 1 or more",
            )
        if not 0 < self.temperature <= 100:
            raise ConfigError(
                f"reward.temperature is {self.temperature}",
                "it is above 0: equal answers teach nothing",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationSettings:
    """What is held out, and when it is looked at."""

    every: int = 20
    """Steps."""
    held_out: float = 0.05
    """Share of the records, by a digest of each."""
    tokens: int = 20_000
    """Most of a set."""
    patience: int = 0
    """End after so many looks without a better one, and keep the best; 0: never."""

    def __post_init__(self) -> None:
        if min(self.every, self.tokens) < 1 or not 0 <= self.held_out <= 0.5:
            raise ConfigError(
                f"validation.every is {self.every}, held_out {self.held_out}, tokens {self.tokens}",
                "every and tokens are 1 or more, held_out a share up to 0.5",
            )
        if self.patience < 0 or (self.patience and not self.held_out):
            raise ConfigError(
                f"validation.patience is {self.patience}, held_out {self.held_out}",
                "patience is 0 or more, and needs something held out",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningConfig:
    """A whole run."""

    base: str
    data: str
    tune: TuneSettings
    lora: LoraSettings
    mix: MixSettings
    preference: PreferenceSettings
    policy: ClipSettings
    reward: RewardSettings
    optimiser: OptimiserSettings
    schedule: Schedule
    validation: ValidationSettings
    checkpoint: CheckpointSettings

    def identity(self) -> dict[str, Any]:
        """All settings that a result depends on, flat; a run is resumed under the same ones."""
        table = asdict(self)
        for name in ("data", "checkpoint"):
            del table[name]
        for name in ("micro", "recompute", "threads"):
            del table["tune"][name]
        for name in ("every", "tokens"):
            del table["validation"][name]
        flat = {"base": table.pop("base")}
        for section, values in table.items():
            flat |= {f"{section}.{name}": value for name, value in values.items()}
        return json.loads(json.dumps(flat))  # type: ignore[no-any-return]


_SECTIONS: dict[str, type] = {
    "tune": TuneSettings,
    "lora": LoraSettings,
    "mix": MixSettings,
    "preference": PreferenceSettings,
    "policy": ClipSettings,
    "reward": RewardSettings,
    "optimiser": OptimiserSettings,
    "schedule": Schedule,
    "validation": ValidationSettings,
    "checkpoint": CheckpointSettings,
}


def load_tuning_config(
    base: str, data: str, file: Path | None = None, overrides: tuple[str, ...] = ()
) -> TuningConfig:
    """Read a file, if there is one; overrides win over it, and it over the defaults.

    Raises:
        ConfigError: The file, a key or a value is wrong.
    """
    table = load_table(file, overrides)
    for key, value in table.items():
        if key not in _SECTIONS:
            raise ConfigError(f"unknown section [{key}]", suggest(key, _SECTIONS))
        if not isinstance(value, dict):
            raise ConfigError(f"{key} is no section", f"write [{key}]")
    tune = build(TuneSettings, table.get("tune", {}), "tune.")
    table["optimiser"] = _defaults(tune) | table.get("optimiser", {})
    sections: dict[str, Any] = {
        name: build(kind, table.get(name, {}), f"{name}.") for name, kind in _SECTIONS.items()
    }
    config = TuningConfig(base=base, data=data, **sections)
    _check(config)
    return config


def _defaults(tune: TuneSettings) -> Mapping[str, Any]:
    rate = RATES[tune.method] * (0.1 if tune.full else 1.0)
    return {"rate": rate, "decay": 0.0, "beta2": 0.999}


def _check(config: TuningConfig) -> None:
    settings = config.preference
    if settings.beta <= 0 or not 0 <= settings.smoothing < 0.5:
        raise ConfigError(
            f"preference.beta is {settings.beta}, smoothing {settings.smoothing}",
            "beta is positive, smoothing 0 or more and below 0.5",
        )
    policy = config.policy
    if not 0 < policy.clip_low < 1 or policy.clip_high <= 0 or policy.divergence < 0:
        raise ConfigError(
            f"policy.clip_low is {policy.clip_low}, clip_high {policy.clip_high}, "
            f"divergence {policy.divergence}",
            "clip_low lies between 0 and 1, clip_high above 0, divergence at 0 or above",
        )
    if config.tune.method != "sft" and config.mix.general is not None:
        raise ConfigError(
            f"general data are for sft, the method is {config.tune.method}", "drop --general"
        )
    if policy.divergence and config.tune.full:
        raise ConfigError(
            "the model before training is gone when all weights change",
            "drop --full, or policy.divergence",
        )
    if config.tune.method == "grpo" and config.tune.batch % config.reward.group:
        raise ConfigError(
            f"tune.batch is {config.tune.batch}, reward.group {config.reward.group}",
            "make batch a multiple of group: a step takes whole groups",
        )
    if config.tune.method == "grpo" and config.validation.patience:
        raise ConfigError("early stopping is for sft and dpo", "drop --patience")
