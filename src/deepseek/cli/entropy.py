"""What `deepseek data entropy` does: questions get their semantic entropy, and its baselines."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from deepseek.core.errors import ConfigError

if TYPE_CHECKING:
    from deepseek.core.llm import EmbeddingModel, LanguageModel
    from deepseek.data.entropy.auroc import Auroc


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `entropy`."""
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
    group.add_argument("--served-name", metavar="NAME", help="with a URL: which of its models")


def measure(args: argparse.Namespace) -> int:
    """Annotate the questions of a file, and say what the signals are worth."""
    from deepseek.cli.console import next_step, progress_bar, say
    from deepseek.cli.synthesis import SandboxRunner, open_chosen, require_out
    from deepseek.data.entropy.annotate import VECTORS, Asking, annotate, read_questions, tell_wrong
    from deepseek.data.entropy.sampling import Sampling
    from deepseek.data.lines import write_lines
    from deepseek.data.verifiers.registry import find_verifier

    require_out(args)
    sampling = Sampling(
        samples=args.samples,
        first=args.samples if args.all_samples else min(4, args.samples),
        temperature=args.temperature,
        max_tokens=args.max_tokens,
        seed=args.seed,
    )
    asking = Asking(
        verifier=args.by, style="steps" if args.steps else "direct", p_true=not args.no_p_true
    )
    questions = read_questions(args.path, args.by)
    for name in {problem.verifier for _, problem in questions}:
        find_verifier(name)  # a mistake is told before a model is loaded
    model = open_chosen(args)
    vectors = _embedding_model(args, model) if args.by == VECTORS else None
    with progress_bar("questions") as on_done:
        found = annotate(
            model,
            questions,
            sampling,
            asking,
            runner=SandboxRunner(),
            embedding_model=vectors,
            on_done=on_done,
        )
        rows = list(found)
    write_lines(args.out, rows)
    aurocs = tell_wrong(rows)
    if args.json:
        print(json.dumps({name: asdict(value) for name, value in aurocs.items()}, indent=2))
    else:
        print(_table(aurocs) if aurocs else f"{len(rows):,} questions")
    say(f"written: {args.out}")
    if not aurocs:
        next_step("give answers in the file to see how well each signal tells wrong ones")
    return 0


def _table(aurocs: "dict[str, Auroc]") -> str:
    width = max(map(len, aurocs))
    first = next(iter(aurocs.values()))
    lines = [f"AUROC for {first.n_wrong:,} wrong answers among {first.n_wrong + first.n_right:,}"]
    for name, value in aurocs.items():
        lines.append(f"{name:<{width}}  {value.value:.3f}  [{value.low:.3f}, {value.high:.3f}]")
    return "\n".join(lines)


def _embedding_model(args: argparse.Namespace, model: "LanguageModel") -> "EmbeddingModel":
    from deepseek.cli.synthesis import open_chosen
    from deepseek.core.llm import EmbeddingModel

    chosen = open_chosen(args, args.embedding_model) if args.embedding_model else model
    if not isinstance(chosen, EmbeddingModel):
        raise ConfigError(f"{chosen.name} makes no vectors", "name another --embedding-model")
    return chosen
