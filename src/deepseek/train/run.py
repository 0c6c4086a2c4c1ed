"""A run from its config to its result: `config`, `prepare`, the loop, and what comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from deepseek.adapt.isolation import kept_biases
from deepseek.core.device import DTYPES, choose_compute
from deepseek.core.errors import CheckpointError, ConfigError
from deepseek.core.log import LOGGER
from deepseek.data.sampler import Sampler
from deepseek.model.checkpoint import save_model
from deepseek.model.config import ModelConfig
from deepseek.model.transformer import Transformer
from deepseek.tokenizer.tokenizer import Tokenizer
from deepseek.train.config import TrainingConfig
from deepseek.train.evaluation import HeldOut
from deepseek.train.experts import domains_of, mask_of
from deepseek.train.loop import LoopSettings, OnStep, Trainer
from deepseek.train.metrics import MetricsFile, read_metrics
from deepseek.train.outline import fill_outline, outline
from deepseek.train.parallel import distribute
from deepseek.train.pieces import is_sharded
from deepseek.train.plan import plan_run
from deepseek.train.precision import use_precision
from deepseek.train.prepare import (
    Corpus,
    OnFiles,
    encode_files,
    encode_sources,
    identity,
    make_model,
    make_tokenizer,
    model_config,
    source_files,
)
from deepseek.train.ranks import Ranks
from deepseek.train.report import render_report
from deepseek.weights.cache import write_atomically

NAMED_FILES = "files"
"""The name under which `evaluation.paths` are reported."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished run leaves."""

    bits_per_byte: Mapping[str, float]
    model: Path | None
    """A folder that `--model` takes; None where no format of others holds such a model."""
    report: Path


@dataclass(slots=True)
class Run:
    """One run, ready to go or finished."""

    config: TrainingConfig
    out: Path
    tokenizer: Tokenizer
    corpora: Mapping[str, Corpus]
    trainer: Trainer
    ranks: Ranks = field(default_factory=Ranks)

    def train(self, on_step: OnStep | None = None) -> bool:
        """Take the steps that are left; False if a signal ended the run before its end.

        Raises:
            TrainingError: Numbers are not finite any more.
            CheckpointError: Something cannot be written.
        """
        self.trainer.run(on_step)
        return self.trainer.is_done

    def finish(self) -> Outcome:
        """Average the last checkpoints if wanted, and write the model and the report.

        All ranks call it; the first one writes.

        Raises:
            CheckpointError: Something cannot be written.
        """
        trainer, average = self.trainer, self.config.checkpoint.average
        steps = trainer.checkpoints.steps()[-average:]
        if average > 1:
            trainer.checkpoints.average(steps, trainer.model)
            LOGGER.info("the result is the mean of the weights after steps %s", steps)
        found = trainer.evaluate()
        report, folder = self.out / "report.html", self.out / "model"
        if not self.ranks.is_first:
            self.ranks.wait()
            return Outcome(found, folder, report)
        metrics = MetricsFile(self.out / "metrics.jsonl")
        metrics.rewind(trainer.step)
        metrics.append({"step": trainer.step + 1, "result": found, "averaged": steps[-average:]})
        is_written = True
        try:
            save_model(self._whole_model(steps), folder)
            self.tokenizer.save(folder)
        except ConfigError as error:
            LOGGER.warning("no model folder is written: %s", error.message)
            is_written = False
        stages = [stage.name for stage in self.config.stages]
        settings, rows = self.config.identity(), read_metrics(metrics.path)
        write_report(report, render_report(stages, settings, rows, self.funnels()))
        self.ranks.wait()
        return Outcome(found, folder if is_written else None, report)

    def _whole_model(self, steps: Sequence[int]) -> Transformer:
        """The model, or, if ranks share its weights, one of what they have written."""
        model = self.trainer.model
        if not is_sharded(model):
            return model
        whole = Transformer(model.config)
        self.trainer.checkpoints.average(steps, whole)
        return whole

    def funnels(self) -> dict[str, str]:
        """What became of each source's documents."""
        return {
            name: f"{corpus.funnel}; {corpus.train.n_tokens:,} tokens"
            for name, corpus in self.corpora.items()
        }


def write_report(path: Path, page: str) -> None:
    """Write a report, whole or not at all, readable for others.

    Raises:
        CheckpointError: It cannot be written.
    """
    try:
        write_atomically(path, page.encode("utf-8", "replace"))
        path.chmod(0o644)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror}", "free some space, then --resume"
        ) from None


def refuse_other_run(out: Path, resume: bool) -> None:
    """Refuse to begin a run where there is one.

    Raises:
        ConfigError: There is one, and it is not to go on.
    """
    if (out / "checkpoints").is_dir() and any((out / "checkpoints").iterdir()) and not resume:
        raise ConfigError(
            f"{out} holds a run already", "go on with it by --resume, or choose another --out"
        )


def prepare_run(
    config: TrainingConfig,
    out: Path,
    *,
    resume: bool = False,
    on_files: OnFiles | None = None,
) -> Run:
    """Encode the sources, make the model, and find the run's last state if it is to go on.

    Args:
        config: Of the run.
        out: Its folder.
        resume: Go on with the run there, if one was begun.
        on_files: Told while texts are encoded.

    Raises:
        ConfigError: A setting is wrong, or there is a run already and it is not to go on.
        DocumentError: A text is missing or may not be trained on.
        CheckpointError: What is there is damaged or belongs to another run.
    """
    compute = choose_compute(config.run.device, "float32", config.run.threads)
    ranks = Ranks.join(compute.device)
    if config.run.batch % ranks.size:
        raise ConfigError(
            f"run.batch is {config.run.batch} for {ranks.size} processes", "make it a multiple"
        )
    refuse_other_run(out, resume)
    files = source_files(config)
    if ranks.is_first:  # the others find in the cache what the first one has made
        tokenizer = make_tokenizer(config, files, out)
        corpora = encode_sources(config, files, tokenizer, on_files)
    ranks.wait()
    if not ranks.is_first:
        tokenizer = make_tokenizer(config, files, out)
        corpora = encode_sources(config, files, tokenizer)
    torch.manual_seed(config.run.seed)
    shape = model_config(config, tokenizer.vocab_size)
    model = place_model(config, shape, ranks, compute.device)
    named = {name: config.sources[name].domain for name in corpora}
    groups = config.trainable.groups
    dynamic = config.mixture.settings if config.mixture.dynamic else None
    sources = {name: corpus.train for name, corpus in corpora.items()}
    talks = [name for name in corpora if config.sources[name].kind == "conversations"]
    trainer = Trainer(
        model,
        Sampler(sources, config.run.window, config.run.seed, dynamic, unbroken=talks),
        plan_run(config),
        _loop_settings(config),
        config.optimiser,
        out,
        mask=mask_of(config, model),
        domains=domains_of(shape, named),
        kept=kept_biases(model, groups) if groups else None,
        held_out=_held_out(config, corpora, tokenizer, out),
        identity=identity(config, corpora, tokenizer),
        ranks=ranks,
    )
    if resume:
        trainer.resume()
    return Run(config, out, tokenizer, corpora, trainer, ranks)


def place_model(
    config: TrainingConfig, shape: ModelConfig, ranks: Ranks, device: torch.device
) -> Transformer:
    """The model with its first weights, or this rank's share of it.

    Raises:
        CheckpointError: A checkpoint is damaged.
        ConfigError: The settings do not fit the model or the number of ranks.
    """
    is_shared = config.parallel.data == "sharded" and ranks.size > 1
    has_budget = shape.moe is not None and shape.moe.budget is not None  # set by whole gates
    is_outline = is_shared and not has_budget and "checkpoint" not in config.model
    model = outline(shape) if is_outline else make_model(config, shape).to(device)
    model.recompute = config.run.recompute
    use_precision(model, config.run.precision)
    distribute(model, config.parallel, ranks, device)
    if is_outline:
        fill_outline(model, device, config.run.seed)
    return model


def _loop_settings(config: TrainingConfig) -> LoopSettings:
    run, saving = config.run, config.checkpoint
    return LoopSettings(
        micro=run.micro,
        dtype=DTYPES[run.dtype],
        clip=run.clip,
        spike=run.spike,
        z_loss=run.z_loss,
        evaluate_every=config.evaluation.every,
        save_every=saving.every,
        keep=max(saving.keep, saving.average),
    )


def _held_out(
    config: TrainingConfig, corpora: Mapping[str, Corpus], tokenizer: Tokenizer, out: Path
) -> HeldOut:
    sets = {name: c.held_out for name, c in corpora.items() if c.held_out.n_documents}
    if config.evaluation.paths:
        sets[NAMED_FILES] = encode_files(config, tokenizer, config.evaluation.paths, out)
    if not sets:
        LOGGER.warning("no text is held out: raise evaluation.held_out, or name evaluation.paths")
    return HeldOut(sets, config.run.window, config.evaluation.tokens)
