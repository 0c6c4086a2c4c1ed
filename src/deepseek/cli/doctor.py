"""`deepseek doctor`: what this machine offers, and what loading a model costs."""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import shutil
from typing import Any

from deepseek.cli.options import add_model_options, open_model

HELP = "Show what this machine can do: processor, number format, threads, memory, features."
EXAMPLES = ("deepseek doctor", "deepseek doctor --load --model smollm2-135m --json")
# Feature -> (module that carries it, extra that installs it)
FEATURES = {
    "paper analysis": ("pypdfium2", "papers"),
    "page images in reports": ("PIL", "papers"),
    "evaluation data": ("pyarrow", "eval"),
    "models behind a URL": ("openai", "eval"),
    "models through transformers": ("transformers", "reference"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--load", action="store_true", help="load the model and measure time, memory and speed"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    report = machine(args)
    if args.load:
        report |= measured(args)
    if args.json:
        if plan := report.get("memory plan"):
            report["memory plan"] = {name: n_bytes for name, n_bytes, _ in plan.rows()}
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return 0
    plan = report.pop("memory plan", None)
    width = max(map(len, report))
    for name, value in report.items():
        print(f"{name:<{width}}  {value}")
    if plan is not None:
        print(f"\nWhat the memory budget is for:\n{plan}")
    if not args.load:
        from deepseek.cli.console import next_step

        next_step("deepseek doctor --load --model smollm2-135m")
    return 0


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Facts that need no model."""
    import torch

    from deepseek import __version__
    from deepseek.core.device import choose_compute
    from deepseek.core.memory import available_bytes
    from deepseek.ops import native
    from deepseek.weights.cache import home

    compute = choose_compute(args.device, args.dtype, args.threads)
    folder, left = home(), available_bytes()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    report: dict[str, Any] = {
        "deepseek": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "processor": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "compute": compute.describe(),
        "native kernels": native.level()
        if native.is_available()
        else "not built: install a C++ compiler, then the package again",
        "memory": "unknown" if left is None else f"{left / 2**30:.1f} GiB available",
        "cache": f"{folder} ({shutil.disk_usage(existing).free / 2**30:.0f} GiB free)",
    }
    for feature, (module, extra) in FEATURES.items():
        here = importlib.util.find_spec(module) is not None
        report[feature] = "ready" if here else f"missing: pip install 'deepseek[{extra}]'"
    for package in ("tokenizers", "pypdfium2"):
        if importlib.util.find_spec(package):
            report[package] = importlib.metadata.version(package)
    return report


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Load the model, read 512 tokens and write 32."""
    model = open_model(args)
    load = model.load_report
    prompt = "The quick brown fox jumps over the lazy dog. " * 60
    done = model.generate(prompt, max_tokens=32)
    planned = {} if model.memory_plan is None else {"memory plan": model.memory_plan}
    return planned | {
        "model": model.name,
        "context window": model.context_window,
        "load": str(load),
        "prefill": f"{done.n_prompt_tokens / done.prefill_seconds:.0f} tokens/s "
        f"at {done.n_prompt_tokens} tokens",
        "decode": f"{len(done.token_ids) / max(done.decode_seconds, 1e-9):.1f} tokens/s",
    }
