"""`deepseek models`: the checkpoints by name."""

import argparse
import json

HELP = "List the named checkpoints, their size and licence, and which are here."
EXAMPLES = ("deepseek models", "deepseek models --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a table."""
    from deepseek.cli.console import next_step
    from deepseek.weights.pull import checkpoint_of, is_here
    from deepseek.weights.registry import load_registry

    rows = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "size": entry.size,
            "licence": entry.licence,
            "here": is_here(entry),
            "path": str(checkpoint_of(entry).path) if is_here(entry) else None,
            "description": entry.description,
        }
        for entry in load_registry().values()
    ]
    if args.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        mark = "here" if row["here"] else "-"
        size = f"{float(str(row['size'])) / 2**20:>7,.0f} MiB"
        print(f"{row['name']:<{width}}  {size}  {mark:<4}  {row['description']} ({row['licence']})")
    next_step("deepseek pull NAME; any GGUF file or safetensors folder can be named instead")
    return 0
