"""Options that several verbs share: which model, how to sample, where a run goes."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek.core.constraint import Constraint
from deepseek.core.errors import RequestError
from deepseek.core.llm import SamplingParams
from deepseek.core.log import LOGGER

if TYPE_CHECKING:
    from deepseek.r1 import R1Model


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--dtype`, `--threads`, `--device`, `--context-window`, and others."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="NAME",
        help="a name from `deepseek models`, a GGUF file or a safetensors folder "
        "(default: $DEEPSEEK_MODEL, or qwen2.5-coder-1.5b)",
    )
    group.add_argument(
        "--dtype",
        default="auto",
        help="auto, int8 (rounds plain weights), bfloat16, float16 or float32",
    )
    group.add_argument("--device", default="auto", help="auto, cpu or cuda")
    group.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: all granted)"
    )
    group.add_argument(
        "--memory-budget",
        metavar="SIZE",
        help="such as 4GiB: weights, cache, draft model, adapters and working memory stay below; "
        "quantised weights only",
    )
    group.add_argument(
        "--speculation",
        choices=("auto", "off"),
        default="auto",
        help="guess next tokens and check them together where that is faster; answers are the same",
    )
    group.add_argument(
        "--draft-model",
        metavar="MODEL",
        help="a small model with the same vocabulary that guesses too, for a model many times its "
        "size",
    )
    group.add_argument("--context-window", type=int, metavar="N", help="tokens to work with")
    group.add_argument(
        "--attention",
        default="auto",
        choices=("auto", "dense", "hierarchical"),
        help="what a token sees: dense is all; hierarchical a window, the first tokens and what "
        "it recalls; auto is dense up to the trained length, hierarchical in a larger window",
    )
    group.add_argument(
        "--kv-dtype",
        default="auto",
        choices=("auto", "bfloat16", "int8", "int4"),
        help="how keys and values behind the last tokens are kept; int8 and int4 take a half and a "
        "third of the memory, and need quantised weights on a CPU; auto is bfloat16 unless that "
        "does not fit the memory budget, or the memory that is left",
    )
    group.add_argument(
        "--kv-disk",
        type=Path,
        metavar="DIR",
        help="with int8 or int4: keep these keys and values in a file in this folder instead of "
        "memory; the file has no name there and is gone when the program ends, however it ends",
    )


def add_context_option(parser: argparse.ArgumentParser) -> None:
    """`--context`: a text that was read before."""
    parser.add_argument(
        "--context",
        type=Path,
        metavar="FILE",
        help="a text saved by `deepseek context save`, which the prompt follows; model, context "
        "window, attention and kv-dtype are those it was read with, if none are named",
    )


def add_prefix_options(parser: argparse.ArgumentParser) -> None:
    """`--prefix-cache` and its size: what prompts begin with, on a disk."""
    group = parser.add_argument_group("prompts that begin alike")
    group.add_argument(
        "--prefix-cache",
        metavar="DIR",
        help="keep what was read of prompts in this folder, so that those that begin so are not "
        "read again, also in another run; auto: a folder in your cache; quantised weights only",
    )
    group.add_argument(
        "--prefix-cache-size",
        metavar="SIZE",
        help="that it stays below (default: 4GiB); what was not used longest makes way",
    )


def add_adapter_option(parser: argparse.ArgumentParser) -> None:
    """`--adapter`: what is added to the model's weights."""
    parser.add_argument(
        "--adapter",
        type=Path,
        metavar="DIR",
        help="a low-rank adapter in PEFT's format, which was trained on the model",
    )


def adapter_of(args: argparse.Namespace) -> str | None:
    """The name by which the model knows the adapter of `--adapter`."""
    return None if args.adapter is None else args.adapter.resolve().name


def add_sampling_options(parser: argparse.ArgumentParser, temperature: float) -> None:
    """One option a field of `SamplingParams`."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--max-tokens", type=int, default=512, metavar="N")
    group.add_argument(
        "--temperature", type=float, default=temperature, help="0 is greedy (default: %(default)s)"
    )
    group.add_argument("--top-k", type=int, default=0, metavar="K", help="0 keeps all tokens")
    group.add_argument("--top-p", type=float, default=1.0, metavar="P")
    group.add_argument("--min-p", type=float, default=0.0, metavar="P")
    group.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X")
    group.add_argument("--frequency-penalty", type=float, default=0.0, metavar="X")
    group.add_argument("--presence-penalty", type=float, default=0.0, metavar="X")
    group.add_argument(
        "--logit-bias", action="append", default=[], metavar="ID=X", help="repeatable; -100 to 100"
    )
    group.add_argument("--seed", type=int, help="same seed, same answer")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="repeatable")
    group.add_argument(
        "--reasoning-budget", type=int, metavar="N", help="end <think> after so many tokens"
    )
    group.add_argument(
        "--expert-budget",
        type=float,
        metavar="SHARE",
        help="of a mixture: the share of experts to use, above 0 to 1, and a report of those used",
    )


def add_constraint_options(parser: argparse.ArgumentParser) -> None:
    """The form that the answer must have; at most one."""
    group = parser.add_argument_group("form of the answer").add_mutually_exclusive_group()
    group.add_argument("--json-schema", type=Path, metavar="FILE", help="JSON that it accepts")
    group.add_argument("--json-object", action="store_true", help="any JSON object")
    group.add_argument("--regex", metavar="PATTERN", help="text that all of it matches")
    group.add_argument(
        "--grammar", type=Path, metavar="FILE", help="text that a Lark grammar derives"
    )
    group.add_argument("--choice", metavar="A,B", help="one of these texts")


def constraint_of(args: argparse.Namespace) -> Constraint | None:
    """The constraint that was asked for, checked as far as no model is needed.

    Raises:
        RequestError: The file cannot be read, or the constraint cannot be used.
    """
    found = None
    if args.json_schema:
        found = Constraint.json_schema(_text_of(args.json_schema))
    elif args.json_object:
        found = Constraint.json()
    elif args.regex is not None:
        found = Constraint.regex(args.regex)
    elif args.grammar:
        found = Constraint.grammar(_text_of(args.grammar))
    elif args.choice is not None:
        found = Constraint.choice([choice.strip() for choice in args.choice.split(",")])
    if found is not None:
        from deepseek.engine.constraint import check_constraint

        check_constraint(found)
    return found


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {file}: {error}", "name a text file") from None


def sampling_of(
    args: argparse.Namespace, logprobs: int | None = None, constraint: Constraint | None = None
) -> SamplingParams:
    """The sampling options as parameters.

    Raises:
        RequestError: A value is out of range.
    """
    return SamplingParams(
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        frequency_penalty=args.frequency_penalty,
        presence_penalty=args.presence_penalty,
        logit_bias=dict(_bias_of(text) for text in args.logit_bias),
        seed=args.seed,
        stop=tuple(args.stop),
        logprobs=logprobs,
        constraint=constraint,
        reasoning_budget=args.reasoning_budget,
        expert_budget=args.expert_budget,
    )


def _bias_of(text: str) -> tuple[int, float]:
    token_id, _, value = text.partition("=")
    try:
        return int(token_id), float(value)
    except ValueError:
        raise RequestError(
            f"--logit-bias is {text!r}", "give a token id and a number, such as 262=-5"
        ) from None


def open_model(
    args: argparse.Namespace, on_prefill: Callable[[int, int], None] | None = None
) -> "R1Model":
    """Load the named model with a progress bar; pull it first if it is not here.

    With `--adapter`, load that, and with `--context` take up what was saved.
    """
    from deepseek.cli.console import progress_bar
    from deepseek.cli.pull import pull_bar
    from deepseek.r1 import R1Model, default_model

    saved = getattr(args, "context", None)
    if saved is not None:
        _take_settings(args, saved)
    name = args.model or default_model()
    with pull_bar(name) as on_pull, progress_bar(f"loading {name}") as on_load:
        model = R1Model(
            name,
            context_window=args.context_window,
            attention=args.attention,
            kv_dtype=args.kv_dtype,
            kv_disk=args.kv_disk,
            device=args.device,
            dtype=args.dtype,
            threads=args.threads,
            memory_budget=args.memory_budget,
            speculation=args.speculation,
            draft_model=args.draft_model,
            prefix_cache=getattr(args, "prefix_cache", None),
            prefix_cache_size=getattr(args, "prefix_cache_size", None),
            on_load=on_load,
            on_pull=on_pull,
            on_prefill=on_prefill,
        )
    LOGGER.info("%s", model.load_report)
    if adapter := getattr(args, "adapter", None):
        LOGGER.info("%s", model.load_adapter(adapter_of(args) or "", adapter))
    if model.memory_plan is not None:
        LOGGER.info("the memory budget:\n%s", model.memory_plan)
    if saved is not None:
        with progress_bar(f"loading {saved}") as on_page:
            context = model.load_context(saved, on_page)
        if context.adapter != adapter_of(args):
            raise RequestError(f"{saved} was read without an adapter", "drop --adapter")
    return model


def _take_settings(args: argparse.Namespace, saved: Path) -> None:
    """Fill in what is not named on the command line from the header of a saved context."""
    from deepseek.model.context_file import ContextFile
    from deepseek.ops.cold import BITS
    from deepseek.weights.registry import load_registry

    with ContextFile(saved) as file:
        info = file.info
    if args.model is None and info.model in load_registry():
        args.model = info.model
    if args.context_window is None:
        args.context_window = info.context_window
    if args.attention == "auto" and info.attention is not None:
        args.attention = "hierarchical"
    if args.kv_dtype == "auto":
        bits = None if info.cold is None else info.cold.get("bits")
        args.kv_dtype = next((name for name, known in BITS.items() if known == bits), "auto")


def add_run_options(parser: argparse.ArgumentParser, shown: str) -> None:
    """Where a run of training goes, how it goes on, and what changes it.

    Args:
        parser: Of a verb that trains.
        shown: What `--dry-run` shows.
    """
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="checkpoints, metrics, result"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint, if there is one"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change any setting; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help=f"show {shown}, and stop")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
