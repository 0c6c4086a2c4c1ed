"""What a run will do: stages, steps, rates, and how much of each source they read."""

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.data.sampler import StageMix
from deepseek.train.config import TrainingConfig
from deepseek.train.schedule import Schedule


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage between two steps."""

    name: str
    start: int
    end: int
    """The step after its last."""
    mix: StageMix
    rate: float
    schedule: Schedule | None


@dataclass(frozen=True, slots=True)
class Plan:
    """All stages in order."""

    stages: Sequence[PlannedStage]
    batch: int
    """Windows of a step."""
    window: int
    rate: float
    schedule: Schedule
    """Over all steps, for stages that have none of their own."""

    @property
    def n_steps(self) -> int:
        """Of all stages."""
        return self.stages[-1].end

    @property
    def step_tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.window

    def stage_of(self, step: int) -> PlannedStage:
        """The stage of a step, counted from 0."""
        return next(stage for stage in self.stages if step < stage.end)

    def rate_factor(self, step: int) -> float:
        """What the optimiser's rate is multiplied by in a step."""
        stage = self.stage_of(step)
        if stage.schedule is None:
            return stage.rate * self.schedule.factor(step, self.n_steps)
        return stage.rate * stage.schedule.factor(step - stage.start, stage.end - stage.start)


def plan_run(config: TrainingConfig) -> Plan:
    """Lay out the stages of a config."""
    stages, start = [], 0
    for stage in config.stages:
        n_steps = config.n_steps(stage)
        mix = StageMix(
            weights=stage.weights, n_windows=n_steps * config.run.batch, pacing=stage.pacing
        )
        stages.append(
            PlannedStage(
                stage.name, start, start + n_steps, mix, stage.rate, config.stage_schedule(stage)
            )
        )
        start += n_steps
    return Plan(stages, config.run.batch, config.run.window, config.optimiser.rate, config.schedule)
