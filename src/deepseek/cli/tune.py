"""`deepseek tune`: fine-tune a checkpoint on answers, preferences or rewards."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek.cli.options import add_run_options

if TYPE_CHECKING:
    import torch

    from deepseek.core.llm import Completion, Prompt, SamplingParams
    from deepseek.model.transformer import Transformer
    from deepseek.tokenizer.tokenizer import Tokenizer
    from deepseek.train.tuning.config import TuningConfig
    from deepseek.train.tuning.forecast import TuningForecast
    from deepseek.train.tuning.replay import Ask
    from deepseek.train.tuning.run import Tuning, TuningOutcome

HELP = "Fine-tune a checkpoint on your records; a killed run goes on exactly where it was."
EXAMPLES = (
    "deepseek tune smollm2-135m answers.jsonl --out runs/answers --general self",
    "deepseek tune smollm2-135m pairs.jsonl --method dpo --out runs/pairs --dry-run",
)
# Options that are settings, by name: what they set.
SETTINGS = {
    "method": "tune.method",
    "full": "tune.full",
    "quantised": "tune.quantised",
    "window": "tune.window",
    "batch": "tune.batch",
    "micro": "tune.micro",
    "epochs": "tune.epochs",
    "steps": "tune.steps",
    "seed": "tune.seed",
    "dtype": "tune.dtype",
    "recompute": "tune.recompute",
    "threads": "tune.threads",
    "rank": "lora.rank",
    "alpha": "lora.alpha",
    "targets": "lora.targets",
    "rate": "optimiser.rate",
    "general": "mix.general",
    "ratio": "mix.ratio",
    "reward": "reward.reward",
    "group": "reward.group",
    "patience": "validation.patience",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("base", help="a name from `deepseek models`, a GGUF file or a folder")
    parser.add_argument(
        "data",
        help="a .jsonl file or a folder of such: messages, or prompt and completion; for dpo "
        "prompt, chosen, rejected; for grpo prompt and answer, or gym:FAMILY of reasoning-gym",
    )
    parser.add_argument(
        "--method", choices=("sft", "dpo", "grpo"), help="answers (default), preferences, rewards"
    )
    _add_settings(parser)
    parser.add_argument("--merge", action="store_true", help="also write a model with it inside")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings")
    add_run_options(parser, shown="what would be trained and on what")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what learns")
    group.add_argument("--rank", type=int, metavar="N", help="of what is added; default: 16")
    group.add_argument("--alpha", type=float, metavar="X", help="default: 32; scale is alpha/rank")
    group.add_argument(
        "--targets", metavar="NAMES", help="q_proj,v_proj,… or experts; default: all of them"
    )
    group.add_argument("--full", action="store_true", help="change all weights instead")
    group.add_argument(
        "--quantised", action="store_true", help="keep the frozen weights quantised: least memory"
    )
    group = parser.add_argument_group("steps")
    group.add_argument("--epochs", type=float, metavar="X", help="default: 2")
    group.add_argument("--steps", type=int, metavar="N", help="instead of epochs")
    group.add_argument("--batch", type=int, metavar="N", help="records of a step; default: 16")
    group.add_argument("--micro", type=int, metavar="N", help="records of a pass; default: 8")
    group.add_argument("--window", type=int, metavar="N", help="tokens of a record; default: 1024")
    group.add_argument(
        "--rate", type=float, metavar="X", help="highest learning rate; default: by method"
    )
    group.add_argument(
        "--patience", type=int, metavar="N", help="end after N looks that were no better"
    )
    group.add_argument("--seed", type=int, metavar="N", help="of order, draws and first weights")
    group.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), help="of products")
    group.add_argument("--recompute", action="store_true", help="less memory, a third more work")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    group = parser.add_argument_group("data")
    group.add_argument(
        "--general",
        metavar="PATH",
        help="general data against forgetting; self: the base's own answers",
    )
    group.add_argument("--ratio", type=float, metavar="X", help="domain to general; default: 3")
    group.add_argument(
        "--reward", metavar="NAME", help="number (default), choice, text, pattern or gym"
    )
    group.add_argument("--group", type=int, metavar="N", help="answers to a prompt; default: 8")


def run(args: argparse.Namespace) -> int:
    """Tune, or show what would be done."""
    from deepseek.cli.console import next_step, say
    from deepseek.cli.train import stopping, training_bar
    from deepseek.train.tuning.config import load_tuning_config

    config = load_tuning_config(args.base, args.data, args.config, overrides_of(args))
    if args.dry_run:
        return _dry_run(args, config)
    from deepseek.train.tuning.run import prepare_tuning

    tuning = prepare_tuning(config, args.out, ask_model, resume=args.resume)
    is_first = tuning.ranks.is_first
    if is_first:
        _announce(args, tuning)
    with stopping(tuning.trainer), training_bar(tuning.trainer, is_first) as on_step:
        is_done = tuning.train(on_step)
    if not is_done:
        tuning.ranks.leave()
        if is_first:
            say(f"stopped after step {tuning.trainer.step:,}; its state is saved")
            next_step("the same command with --resume")
        return 130
    outcome = tuning.finish(merged=args.merge)
    if is_first:
        _finish(args, outcome)
    tuning.ranks.leave()
    return 0


def overrides_of(args: argparse.Namespace) -> tuple[str, ...]:
    """What options and `--set` change; the latter wins."""
    found = []
    for option, key in SETTINGS.items():
        value = getattr(args, option)
        if option == "targets" and value is not None:
            value = [name.strip() for name in value.split(",") if name.strip()]
        if value is not None and value is not False:
            found.append(f"{key}={json.dumps(value)}")
    return (*found, *args.set)


def ask_model(model: "Transformer", tokenizer: "Tokenizer", dtype: "torch.dtype") -> "Ask":
    """Let a model answer through the engine, as it is at each call."""
    import torch

    from deepseek.engine.engine import Engine

    def ask(prompts: "Sequence[Prompt]", params: "Sequence[SamplingParams]") -> "list[Completion]":
        is_training = model.training
        model.eval()
        # An engine of its own for each call: what another one has read is of older weights.
        device = next(model.parameters()).device
        engine = Engine(model, tokenizer, name="policy", dtype=dtype, device=device)
        with torch.autocast(device.type, dtype, enabled=dtype is torch.bfloat16):
            answers = dict(engine.generate_many(prompts, params))
        model.train(is_training)
        return [answers[number] for number in range(len(prompts))]

    return ask


def _announce(args: argparse.Namespace, tuning: "Tuning") -> None:
    from deepseek.cli.console import say

    for name, text in tuning.data.funnels().items():
        say(f"{name}: {text}")
    if any(quarantine.bad for quarantine in tuning.data.quarantines.values()):
        say(f"what was put aside, with reasons: {args.out / 'quarantine.jsonl'}")
    say(_parameters(tuning.n_trained, tuning.n_parameters))
    trainer = tuning.trainer
    if trainer.step:
        say(f"going on after step {trainer.step:,} of {trainer.plan.n_steps:,}")


def _parameters(n_trained: int, n_all: int) -> str:
    return f"trainable parameters: {n_trained:,} of {n_all:,} ({n_trained / n_all:.2%})"


def _finish(args: argparse.Namespace, outcome: "TuningOutcome") -> None:
    from deepseek.cli.console import next_step, say

    if args.json:
        paths = {name: str(getattr(outcome, name) or "") for name in ("adapter", "model", "report")}
        print(json.dumps({**outcome.figures, **paths}, indent=2))
    else:
        for kind, values in outcome.figures.items():
            for name, value in values.items():
                print(f"{kind.replace('_', ' ')}, {name}: {value:.4f}")
        say(f"report: {outcome.report}")
    if outcome.adapter is not None:
        next_step(f'deepseek generate "…" --model {args.base} --adapter {outcome.adapter}')
    elif outcome.model is not None:
        next_step(f'deepseek generate "…" --model {outcome.model}')


def _dry_run(args: argparse.Namespace, config: "TuningConfig") -> int:
    import dataclasses

    from deepseek.cli.console import next_step
    from deepseek.train.tuning.forecast import forecast_tuning

    found = forecast_tuning(config)
    if args.json:
        print(json.dumps(dataclasses.asdict(found) | {"share": found.share}, indent=2))
        return 0
    _print_forecast(found)
    next_step("the same command without --dry-run")
    return 0


def _print_forecast(found: "TuningForecast") -> None:
    for name, value in found.settings.items():
        print(f"{name} = {value}")
    print()
    print(_parameters(found.n_trained, found.n_parameters))
    for name, shape in found.trained.items():
        print(f"  {name.replace('blocks.0.', 'blocks.*.')}: {' x '.join(map(str, shape))}")
    parts = {
        "weights": found.weight_bytes,
        "gradients and optimiser": found.optimiser_bytes,
        "a pass, about": found.pass_bytes,
    }
    listed = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in parts.items())
    print(f"memory: about {found.n_bytes / 2**20:,.0f} MiB ({listed})")
    for name, text in found.funnels.items():
        print(f"{name}: {text}")
    for place, reason in found.put_aside:
        print(f"  put aside: {place}: {reason}")
    rows: dict[str, Any] = found.sources
    for name, source in rows.items():
        print(
            f"source {name}: {source['records']:,} records, {source['tokens']:,} tokens, of which "
            f"{source['learned']:,} are learned"
        )
    print(f"steps: {found.n_steps:,}")
