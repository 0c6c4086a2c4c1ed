"""`deepseek eval`: run public benchmarks, compare runs, read failures."""

import argparse
from pathlib import Path

from deepseek.cli.options import add_model_options
from deepseek.core.errors import ConfigError

HELP = "Evaluate a model on public benchmarks, compare two runs, or read individual failures."
EXAMPLES = (
    "deepseek eval mmlu,hellaswag --model smollm2-135m --limit 500 --json run.json --html run.html",
    "deepseek eval compare before.json after.json",
)
ACTIONS = ("tasks", "compare", "page", "index", "sandbox")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "what",
        help="tasks, comma-separated; or: tasks (list them), compare A.json B.json, "
        "page RUN.json, index (of evaluation texts, to keep them out of training), "
        "sandbox (how programs are confined here)",
    )
    parser.add_argument("files", nargs="*", type=Path, help="reports, for compare and page")
    parser.add_argument("--limit", type=int, metavar="N", help="a sample of N items a task")
    parser.add_argument("--shots", type=int, metavar="K", help="solved examples before a question")
    parser.add_argument("--chat", action="store_true", help="ask through the chat template")
    parser.add_argument("--only", metavar="PART[,PART]", help="parts of a task, e.g. subjects")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="your data: a file, a folder, hf:datasets/owner/name",
    )
    parser.add_argument("--lengths", metavar="N[,N]", help="context lengths for ruler, passkey, …")
    parser.add_argument("--seed", type=int, default=0, help="of samples and made-up texts")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the report; compare: too")
    parser.add_argument("--html", type=Path, metavar="OUT", help="a page to read failures on")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where index and page write to")
    parser.add_argument("--fresh", action="store_true", help="do not resume an interrupted run")
    parser.add_argument(
        "--allow-differences", action="store_true", help="compare runs with unequal prompts too"
    )
    parser.add_argument(
        "--backend",
        choices=["engine", "transformers"],
        default="engine",
        help="who runs the model (a URL as --model is asked over HTTP)",
    )
    parser.add_argument("--against", metavar="NAME", help="the model that fidelity compares with")
    parser.add_argument(
        "--served-name", metavar="NAME", help="with a URL: which of its models (default: the first)"
    )
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run tasks, or one of the other actions."""
    from deepseek.cli import evaluation

    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit is {args.limit}", "give a number of items, 1 or more")
    actions = {
        "tasks": evaluation.list_tasks,
        "compare": evaluation.compare,
        "page": evaluation.write_page,
        "index": evaluation.write_index,
        "sandbox": evaluation.show_sandbox,
    }
    assert tuple(actions) == ACTIONS
    if args.what in actions:
        return actions[args.what](args)
    if args.files:
        raise ConfigError(
            f"{args.files[0]} is not expected here", "separate tasks with commas: mmlu,arc"
        )
    return evaluation.evaluate(args)
