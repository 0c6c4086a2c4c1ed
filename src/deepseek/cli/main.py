"""`deepseek <verb>`: a table of verbs; only the one that is called gets imported."""

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from deepseek.core.errors import DeepSeekError

VERBS = {
    "pull": "fetch a checkpoint or sample document into the cache",
    "models": "list the checkpoints and what is here already",
    "generate": "answer one prompt",
    "chat": "talk with a model in the terminal",
    "context": "read a long text once, and ask about it later",
    "papers": "analyse a scientific paper with verified quotes",
    "data": "clean training texts, make hard ones, measure a model's uncertainty",
    "train": "train a model on your texts, in stages",
    "tune": "fine-tune a model on answers, preferences or rewards",
    "adapters": "show or merge low-rank adapters",
    "eval": "run public benchmarks, compare runs, read failures",
    "upcycle": "make a mixture of experts of a dense checkpoint",
    "experts": "list, add, take out or measure the experts of a mixture",
    "plan": "see what a model takes on some devices, and how to lay it out",
    "doctor": "show what this machine can do, and measure loading a model",
}


SPINS = "10000"
"""How often torch's threads ask for work before they sleep (GNU OpenMP; read as torch is loaded).
By default they ask for milliseconds, and on a busy machine take the time of others with work."""


class Parser(argparse.ArgumentParser):
    """Reports mistakes as `error:` and `hint:` like everything else."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and where help is, and exit with status 2."""
        _complain(message, f"{self.prog} --help shows the options and two examples")
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Exit status: 0 done, 1 failed, 2 a user's mistake, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        from deepseek import __version__

        print(f"deepseek {__version__}")
        return 0
    verb = arguments[0]
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        _complain(
            f"unknown verb {verb!r}",
            f"did you mean deepseek {near[0]}?" if near else "deepseek --help lists the verbs",
        )
        return 2
    return _run(verb, arguments[1:])


def parser_of(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb: a sentence, two examples, the options."""
    module = importlib.import_module(f"deepseek.cli.{verb}")
    examples = "\n".join(f"  {line}" for line in module.EXAMPLES)
    parser = Parser(
        prog=f"deepseek {verb}",
        description=f"{module.HELP}\n\nexamples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.add_argument("--verbose", action="store_true", help="say what happens, on stderr")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=module.run)
    return parser


def _run(verb: str, arguments: Sequence[str]) -> int:
    args = parser_of(verb).parse_args(arguments)
    from deepseek.core.log import set_up

    set_up(args.verbose)
    try:
        return int(args.run(args))
    except DeepSeekError as error:
        if args.debug:
            raise
        _complain(error.message, error.hint)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # e.g. `deepseek models | head`
        sys.stderr.close()
        return 1


def _complain(message: str, hint: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = "\n".join(f"  {verb:<{width}}  {text}" for verb, text in VERBS.items())
    return f"""Read very long documents and ask about them, with models that you run yourself.

examples:
  deepseek papers analyze paper.pdf --tasks method_innovation,experiment_flaws --out report.html
  deepseek chat --model smollm2-135m

verbs:
{lines}

deepseek <verb> --help explains a verb."""
