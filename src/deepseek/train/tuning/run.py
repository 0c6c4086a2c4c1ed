"""A fine-tuning run from its settings to an adapter or a model, through the common loop."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from deepseek.adapt.adapter_file import fits_peft, merge_adapter, save_adapter
from deepseek.adapt.isolation import Kept
from deepseek.adapt.lora import attach, merge, trained
from deepseek.core.device import DTYPES, choose_compute, has_fast_bfloat16
from deepseek.core.errors import ConfigError
from deepseek.core.log import LOGGER
from deepseek.data.sampler import Sampler, StageMix
from deepseek.model.checkpoint import is_quantised, load_model, save_model
from deepseek.model.config import ModelConfig
from deepseek.model.moe.load import mixtures_of
from deepseek.model.transformer import Transformer
from deepseek.ops import native
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.train.evaluation import HeldOut
from deepseek.train.loop import LoopSettings, OnStep, Trainer
from deepseek.train.metrics import MetricsFile, read_metrics
from deepseek.train.objective import NextToken, Objective, Policy, Preference
from deepseek.train.plan import Plan, PlannedStage
from deepseek.train.ranks import Ranks
from deepseek.train.report import render_report
from deepseek.train.run import refuse_other_run, write_report
from deepseek.train.subset import Mask
from deepseek.train.tuning.config import SELF, TuningConfig
from deepseek.train.tuning.examples import (
    CHOSEN,
    DOMAIN,
    GENERAL,
    REJECTED,
    TuningData,
    encode_data,
    encode_general,
)
from deepseek.train.tuning.measure import Logprobs
from deepseek.train.tuning.preference import PairSampler, pair_figures, reference_logprobs
from deepseek.train.tuning.replay import Ask, own_answers
from deepseek.train.tuning.rollout import Rollouts, pass_rate
from deepseek.weights.adapter import read_adapter
from deepseek.weights.pull import ensure
from deepseek.weights.source import WeightSource, open_weights

AskModel = Callable[[Transformer, Tokenizer, torch.dtype], Ask]
"""Gives what lets a model, as it is when asked, answer prompts."""
MOST_PROMPTS = 64
"""Held-out prompts that are asked at the end."""


@dataclass(frozen=True, slots=True)
class TuningOutcome:
    """What a finished run leaves."""

    figures: Mapping[str, Mapping[str, float]]
    """On what was held out: by kind and name."""
    adapter: Path | None
    """A folder in PEFT's format."""
    model: Path | None
    """A folder that `--model` takes."""
    report: Path


@dataclass(slots=True)
class Tuning:
    """One run, ready to go or finished."""

    config: TuningConfig
    out: Path
    source: WeightSource
    tokenizer: Tokenizer
    data: TuningData
    trainer: Trainer
    dtype: torch.dtype
    ask: Ask
    n_parameters: int
    n_trained: int
    ranks: Ranks

    def train(self, on_step: OnStep | None = None) -> bool:
        """Take the steps that are left; False if a signal ended the run before its end.

        Raises:
            TrainingError: Numbers are not finite any more.
            CheckpointError: Something cannot be written.
        """
        patience = self.config.validation.patience

        def watched(row: dict[str, object]) -> None:
            if on_step:
                on_step(row)
            if patience and row.get("bits_per_byte") and self._is_stale():
                self.trainer.stop_requested = True

        if patience and self._is_stale():
            return True
        self.trainer.run(watched)
        return self.trainer.is_done or bool(patience and self._is_stale())

    def finish(self, *, merged: bool = False) -> TuningOutcome:
        """Write adapter or model and the report. All ranks call it; the first one writes.

        Args:
            merged: Also write a model with the adapter in its weights.

        Raises:
            CheckpointError: Something cannot be written.
        """
        if self.config.validation.patience:
            self._take_best()
        figures, report = self._figures(), self.out / "report.html"
        if not self.ranks.is_first:
            self.ranks.wait()
            return TuningOutcome(figures, None, None, report)
        metrics = MetricsFile(self.out / "metrics.jsonl")
        metrics.rewind(self.trainer.step)
        result = figures.get("bits_per_byte", {})
        metrics.append({"step": self.trainer.step + 1, "result": result, "figures": figures})
        adapter, model = self._write(merged)
        settings = self.config.identity() | {"parameters trained": self.n_trained}
        page = render_report(["tuning"], settings, read_metrics(metrics.path), self.data.funnels())
        write_report(report, page)
        self.ranks.wait()
        return TuningOutcome(figures, adapter, model, report)

    def _write(self, merged: bool) -> tuple[Path | None, Path | None]:
        model, folder = self.trainer.model, self.out / "model"
        if self.config.tune.full:
            save_model(model, folder)
            self.tokenizer.save(folder)
            return None, folder
        if not fits_peft(model):
            merge(model, self.dtype)
            save_model(model, folder)
            self.tokenizer.save(folder)
            return None, folder
        adapter = self.out / "adapter"
        save_adapter(model, self.config.lora, adapter, Path(self.config.base).name)
        if not merged:
            return adapter, None
        merge_adapter(self.source, read_adapter(adapter), folder, self.dtype)
        self.tokenizer.save(folder)
        return adapter, folder

    def _figures(self) -> dict[str, dict[str, float]]:
        trainer, method = self.trainer, self.config.tune.method
        found = trainer.evaluate()
        if method == "grpo":
            seed = self.config.tune.seed
            prompts, settings = self.data.held_out_prompts, self.config.reward
            rate = pass_rate(self.ask, prompts, settings, MOST_PROMPTS, seed)
            return {"held_out": rate} if rate else {}
        figures: dict[str, dict[str, float]] = {}
        if found:
            figures["bits_per_byte"] = found
            figures["loss"] = _held_out(self.config, self.data).nats_per_token(found)
        if method == "dpo" and CHOSEN in self.data.held_out:
            held_out = self.data.held_out
            pairs = held_out[CHOSEN], held_out[REJECTED]
            references = reference_logprobs(
                trainer.model, *pairs, self.dtype, self.out / "held-out"
            )
            figures["pairs"] = pair_figures(
                trainer.model, pairs, references, self.config.preference, self.dtype
            )
        return figures

    def _looks(self) -> list[tuple[int, float]]:
        """Steps at which the domain's held-out records were looked at, and what they took."""
        return [
            (row["step"], row["bits_per_byte"][DOMAIN])
            for row in read_metrics(self.out / "metrics.jsonl")
            if DOMAIN in (row.get("bits_per_byte") or {})
        ]

    def _is_stale(self) -> bool:
        looks = [bits for _, bits in self._looks()]
        patience = self.config.validation.patience
        return len(looks) > patience and min(looks) < min(looks[-patience:])

    def _take_best(self) -> None:
        steps = set(self.trainer.checkpoints.steps())
        looks = [(bits, step) for step, bits in self._looks() if step in steps]
        if looks and (best := min(looks)[1]) != self.trainer.step:
            LOGGER.info("the result is what there was after step %d", best)
            self.trainer.checkpoints.average([best], self.trainer.model)


def open_base(name: str) -> tuple[WeightSource, Tokenizer]:
    """A named checkpoint, pulled if need be, or a local one, with its tokenizer.

    Raises:
        DownloadError: It cannot be fetched.
        CheckpointError: It is damaged.
        TokenizerError: Its vocabulary is invalid.
    """
    path = Path(name).expanduser()
    source = open_weights(path if path.exists() else ensure(name).path)
    if source.folder is not None:
        return source, Tokenizer.from_folder(source.folder)
    return source, Tokenizer.from_gguf_metadata(source.metadata)


def product_dtype(config: TuningConfig) -> torch.dtype:
    """Of products."""
    if config.tune.dtype == "auto":
        return torch.bfloat16 if has_fast_bfloat16() else torch.float32
    return DTYPES[config.tune.dtype]


def check_base(config: TuningConfig, source: WeightSource) -> None:
    """Refuse what cannot be tuned as it is asked.

    Raises:
        ConfigError: It is so.
    """
    shape = ModelConfig.from_checkpoint(source.config())
    if shape.attention != "dense":
        raise ConfigError(f"attention {shape.attention!r} cannot be tuned yet", "use a dense base")
    if config.tune.window > shape.context_window:
        raise ConfigError(
            f"tune.window is {config.tune.window:,}, the base reads {shape.context_window:,}",
            "make it smaller: --window",
        )
    if config.tune.quantised and (not is_quantised(source) or not native.is_available()):
        raise ConfigError(
            f"{config.base} cannot stay quantised here",
            "drop --quantised: its weights are tuned in bfloat16 or float32 then",
        )
    if config.tune.quantised and shape.moe is not None:
        raise ConfigError("a mixture of experts cannot stay quantised", "drop --quantised")


def make_model(config: TuningConfig, source: WeightSource, dtype: torch.dtype) -> Transformer:
    """The base, ready to be tuned.

    Raises:
        CheckpointError: It is damaged.
        ConfigError: It has none of the targets.
    """
    tune = config.tune
    if tune.full:
        model = load_model(source, dtype=torch.float32, pack=False)
    else:
        kept = tune.quantised
        model = load_model(source, dtype=dtype, pack=kept, quantised=kept)
        attach(model, config.lora, dtype, tune.seed)
    model.recompute = tune.recompute
    return model


def prepare_tuning(
    config: TuningConfig, out: Path, ask_model: AskModel, *, resume: bool = False
) -> Tuning:
    """Read the data, make the model, and find the run's last state if it is to go on.

    Args:
        config: Of the run.
        out: Its folder.
        ask_model: For answers of the model itself.
        resume: Go on with the run there, if one was begun.

    Raises:
        ConfigError: A setting is wrong, or there is a run already and it is not to go on.
        DocumentError: The data are missing or of no use.
        CheckpointError: What is there is damaged or belongs to another run.
    """
    choose_compute("cpu", "float32", config.tune.threads)
    ranks = Ranks.join(torch.device("cpu"))
    check_ranks(config, ranks)
    refuse_other_run(out, resume)
    ranks.wait()  # before one of them begins it
    if ranks.is_first:  # the others find what it has pulled
        source, tokenizer = open_base(config.base)
    ranks.wait()
    if not ranks.is_first:
        source, tokenizer = open_base(config.base)
    check_base(config, source)
    dtype, folder = product_dtype(config), out / "data"
    torch.manual_seed(config.tune.seed)
    model = make_model(config, source, dtype)
    ask = ask_model(model, tokenizer, torch.float32 if config.tune.full else dtype)

    def encode() -> TuningData:
        data = encode_data(config, tokenizer, folder)
        add_general(config, tokenizer, data, out, lambda: ask)
        return data

    if ranks.is_first:
        data = encode()
        data.write_quarantine(out)
    ranks.wait()
    if not ranks.is_first:  # the same bytes again; the base's own answers are there
        data = encode()
    mask = Mask.everything(model)
    if not config.tune.full:
        mask = Mask({name: None for name, _ in trained(model)})
    trainer = Trainer(
        model,
        _sampler(config, data, tokenizer, model, dtype, ask, folder),
        plan_tuning(config, data),
        _loop_settings(config, dtype),
        config.optimiser,
        out,
        mask=mask,
        kept=_kept(model, config),
        objective=_objective(config),
        held_out=_held_out(config, data),
        identity=config.identity() | data.checksums() | {"base.bytes": source.n_bytes},
        ranks=ranks,
    )
    if config.tune.method == "dpo" and CHOSEN in data.held_out:
        pairs = data.held_out[CHOSEN], data.held_out[REJECTED]
        reference_logprobs(model, *pairs, dtype, out / "held-out")
    if resume:
        trainer.resume()
    n_trained = mask.n_trained(model)
    n_parameters = n_trained
    if not config.tune.full:
        n_parameters += ModelConfig.from_checkpoint(source.config()).n_parameters
    return Tuning(
        config, out, source, tokenizer, data, trainer, dtype, ask, n_parameters, n_trained, ranks
    )


def check_ranks(config: TuningConfig, ranks: Ranks) -> None:
    """Refuse what several processes cannot tune together.

    Raises:
        ConfigError: It is so.
    """
    if ranks.size == 1:
        return
    if config.tune.method != "sft":
        raise ConfigError(
            f"--method {config.tune.method} runs in one process yet",
            "start it without torchrun, with --threads",
        )
    if config.tune.batch % ranks.size:
        raise ConfigError(
            f"tune.batch is {config.tune.batch} for {ranks.size} processes", "make it a multiple"
        )


def add_general(
    config: TuningConfig,
    tokenizer: Tokenizer,
    data: TuningData,
    out: Path,
    ask: Callable[[], Ask] | None,
) -> None:
    """Add general data to a run's, if it wants some.

    Args:
        config: Of the run.
        tokenizer: The base's.
        data: Of the domain.
        out: The run's folder.
        ask: Gives what asks the base; None: its own answers are left out.

    Raises:
        DocumentError: They are missing or of no use.
    """
    mix, tune = config.mix, config.tune
    if mix.general is None:
        return
    path = Path(mix.general)
    if mix.general == SELF:
        if ask is None:
            return
        n_general = math.ceil(data.train[DOMAIN].n_documents / mix.ratio)
        path = own_answers(ask, mix, base=config.base, seed=tune.seed, most=n_general, folder=out)
    held_out = config.validation.held_out
    encode_general([path], tokenizer, tune.window, held_out, data, out / "data")


def plan_tuning(config: TuningConfig, data: TuningData) -> Plan:
    """One stage over all steps."""
    tune, mix = config.tune, config.mix
    weights: dict[str, float] = {next(iter(data.train)): mix.ratio}
    share = 1.0
    if GENERAL in data.train or mix.general is not None:
        weights[GENERAL] = 1.0
        share = mix.ratio / (mix.ratio + 1)
    if tune.method == "dpo":
        weights = {CHOSEN: 1.0}
    n_records = next(iter(data.train.values())).n_documents
    a_step = tune.batch * share
    if tune.method == "grpo":
        a_step = tune.batch / config.reward.group / config.reward.steps
    n_steps = tune.steps or max(1, math.ceil(tune.epochs * n_records / a_step))
    stage = StageMix(weights=weights, n_windows=n_steps * tune.batch)
    stages = [PlannedStage("tuning", 0, n_steps, stage, 1.0, None)]
    return Plan(stages, tune.batch, tune.window, config.optimiser.rate, config.schedule)


def _sampler(
    config: TuningConfig,
    data: TuningData,
    tokenizer: Tokenizer,
    model: Transformer,
    dtype: torch.dtype,
    ask: Ask,
    folder: Path,
) -> Sampler:
    tune, reward = config.tune, config.reward
    if tune.method == "dpo":
        pairs = data.train[CHOSEN], data.train[REJECTED]
        references = reference_logprobs(model, *pairs, dtype, folder)
        return PairSampler(*pairs, references, tune.window, tune.seed)
    if tune.method == "grpo":
        now = Logprobs(model, dtype, tune.micro)
        before = Logprobs(model, dtype, tune.micro, base=True)
        return Rollouts(
            data.train[DOMAIN],
            data.prompts,
            ask,
            tokenizer,
            reward,
            n_groups=tune.batch // reward.group,
            window=tune.window,
            seed=tune.seed,
            measure=(
                now if reward.steps > 1 else None,
                before if config.policy.divergence else None,
            ),
        )
    return Sampler(data.train, tune.window, tune.seed, whole=True)


def _objective(config: TuningConfig) -> Objective:
    if config.tune.method == "dpo":
        return Preference(config.preference)
    return Policy(config.policy) if config.tune.method == "grpo" else NextToken()


def _loop_settings(config: TuningConfig, dtype: torch.dtype) -> LoopSettings:
    tune, looks, saving = config.tune, config.validation, config.checkpoint
    return LoopSettings(
        micro=tune.micro,
        dtype=dtype,
        clip=tune.clip,
        # Gradients of rewards are of any length; clipping is all that they need.
        spike=0.0 if tune.method == "grpo" else 10.0,
        z_loss=0.0,
        evaluate_every=looks.every,
        save_every=looks.every if looks.patience else saving.every,
        keep=max(saving.keep, looks.patience + 1),
    )


def _held_out(config: TuningConfig, data: TuningData) -> HeldOut:
    return HeldOut(data.held_out, config.tune.window, config.validation.tokens)


def _kept(model: Transformer, config: TuningConfig) -> Kept | None:
    """Gates stay as they are where only low-rank parts learn, their biases as well."""
    if config.tune.full or model.config.moe is None:
        return None
    kept = Kept()
    for layer in mixtures_of(model):
        kept.keep(layer.gate.bias, ())
        if layer.gate.null_bias is not None:
            kept.keep(layer.gate.null_bias, ())
    return kept
