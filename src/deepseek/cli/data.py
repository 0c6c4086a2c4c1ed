"""`deepseek data`: training data that is made, measured and read."""

import argparse
from collections.abc import Callable
from pathlib import Path

from deepseek.cli.options import add_model_options
from deepseek.core.errors import ConfigError

HELP = (
    "Make training data that a model gets wrong, measure how sure it is, or read users' feedback."
)
EXAMPLES = (
    "deepseek data synthesize configs/synthesis.toml --model smollm2-135m --out hard",
    "deepseek data entropy questions.jsonl --model smollm2-135m --out measured.jsonl",
)
ACTIONS = ("synthesize", "entropy", "feedback", "families")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="synthesize: problems that the model gets wrong; entropy: how much its answers to "
        "questions differ in meaning; feedback: a log of users' ratings as training data; "
        "families: list generated problems",
    )
    parser.add_argument(
        "file", nargs="?", type=Path, help="a TOML file (synthesize), else JSON lines"
    )
    parser.add_argument("--out", type=Path, metavar="PATH", help="a folder; entropy: a file")
    parser.add_argument(
        "--index", type=Path, metavar="FILE", help="of `deepseek eval index`: these texts stay out"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="synthesize: change a setting; may be repeated",
    )
    _add_synthesis_options(parser)
    _add_entropy_options(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_model_options(parser)
    parser.add_argument("--served-name", metavar="NAME", help="with a URL: which of its models")


def run(args: argparse.Namespace) -> int:
    """Do one of the actions."""
    from deepseek.cli import entropy, synthesis

    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "synthesize": synthesis.synthesize,
        "entropy": entropy.measure,
        "feedback": synthesis.read_feedback,
        "families": synthesis.list_families,
    }
    assert tuple(actions) == ACTIONS
    if args.out is None and args.action != "families":
        raise ConfigError("it is not said where to write", "name a place with --out")
    return actions[args.action](args)


def _add_synthesis_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("synthesize, without a file")
    group.add_argument("--tasks", metavar="FAMILY[,FAMILY]", help="see `deepseek data families`")
    group.add_argument("--levels", metavar="N[,N]", help="of difficulty, from 0 (default: 0,1,2)")
    group.add_argument("--count", type=int, metavar="N", help="problems of each family and level")


def _add_entropy_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("entropy")
    group.add_argument(
        "--by",
        default="text",
        metavar="HOW",
        help="how answers are compared, where a question does not say: number, choice, text, "
        "program, or vectors (of the model itself, or of --embedding-model)",
    )
    group.add_argument("--embedding-model", metavar="NAME", help="makes the vectors")
    group.add_argument("--samples", type=int, default=10, metavar="N", help="at most (default: 10)")
    group.add_argument(
        "--all-samples", action="store_true", help="draw all, even if fewer settle the estimate"
    )
    group.add_argument("--max-tokens", type=int, default=64, metavar="N")
    group.add_argument("--temperature", type=float, default=1.0, metavar="X")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--steps", action="store_true", help="let the model think step by step")
    group.add_argument("--no-p-true", action="store_true", help="do not ask it about its answer")
