"""`deepseek adapters`: look at low-rank adapters, and merge them into models."""

import argparse
from pathlib import Path

HELP = "Show what a low-rank adapter adds to, or write a model with it in its weights."
EXAMPLES = (
    "deepseek adapters show runs/answers/adapter",
    "deepseek adapters merge runs/answers/adapter --base smollm2-135m --out merged",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", choices=("show", "merge"), help="what to do")
    parser.add_argument("adapter", type=Path, help="a folder in PEFT's format")
    parser.add_argument("--base", help="merge: the checkpoint that it was trained on")
    parser.add_argument("--out", type=Path, metavar="DIR", help="merge: the new model's folder")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="merge: of the new weights; default: bfloat16",
    )
    parser.add_argument("--json", action="store_true", help="show: print JSON")


def run(args: argparse.Namespace) -> int:
    """Show or merge."""
    return _show(args) if args.action == "show" else _merge(args)


def _show(args: argparse.Namespace) -> int:
    import json

    from deepseek.adapt.adapter_file import n_numbers
    from deepseek.weights.adapter import read_adapter

    file = read_adapter(args.adapter)
    ranks = sorted({part.rank for part in file.parts.values()})
    modules = sorted({name.rpartition(".")[2] for name in file.parts})
    facts = {
        "base": file.base,
        "matrices": len(file.parts),
        "modules": modules,
        "ranks": ranks,
        "parameters": n_numbers(file),
        "fingerprint": file.fingerprint,
    }
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        print(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return 0


def _merge(args: argparse.Namespace) -> int:
    from deepseek.adapt.adapter_file import merge_adapter
    from deepseek.cli.console import next_step
    from deepseek.core.device import DTYPES
    from deepseek.core.errors import ConfigError
    from deepseek.train.tuning.run import open_base
    from deepseek.weights.adapter import read_adapter

    if args.base is None or args.out is None:
        raise ConfigError("it is not said into what to merge", "name --base MODEL and --out DIR")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ConfigError(f"{args.out} is there already", "choose a folder that is new or empty")
    file = read_adapter(args.adapter)
    source, tokenizer = open_base(args.base)
    merge_adapter(source, file, args.out, DTYPES[args.dtype])
    tokenizer.save(args.out)
    print(args.out)
    next_step(f'deepseek generate "…" --model {args.out}')
    return 0
