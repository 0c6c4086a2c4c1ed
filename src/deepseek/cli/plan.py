"""`deepseek plan`: what a model takes on some devices, and how to lay it out on them."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek.model.config import ModelConfig
    from deepseek.model.device_plan import DevicePlan, FormatRow, Tried, Workload

HELP = "Plan a model on some devices: memory of each, the layout that fits, the smallest that does."
EXAMPLES = (
    "deepseek plan r1-67b --devices 8x80GB --dtype int4 --context 131072",
    "deepseek plan r1-67b --devices 64x80GB --training --optimiser muon --recompute --json",
)
CONFIGS = (Path("configs"), Path(__file__).parents[3] / "configs")
"""Where presets are looked up by name: here, and in a checkout of the source."""
GB = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "model", help="a preset (a name in configs/, or a file), a checkpoint's name or folder"
    )
    parser.add_argument(
        "--devices", required=True, metavar="NxSIZE", help="such as 8x80GB, or 24GB for one"
    )
    parser.add_argument(
        "--dtype", default="bfloat16", help="of weights: float32, bfloat16, int8 or int4; with "
        "--training of products: float32 or bfloat16"
    )  # fmt: skip
    parser.add_argument(
        "--context", type=int, metavar="N", help="tokens of a sequence; default: the model's"
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N",
        help="sequences side by side in each copy, or of a training pass; default: 1",
    )  # fmt: skip
    parser.add_argument(
        "--kv-dtype", default="bfloat16", help="keys and values: bfloat16, int8 or int4"
    )
    parser.add_argument(
        "--attention", choices=("auto", "dense", "hierarchical"), default="auto",
        help="auto: hierarchical beyond what the weights were trained for, with its memory nodes",
    )  # fmt: skip
    parser.add_argument("--training", action="store_true", help="gradients and states, too")
    parser.add_argument("--optimiser", choices=("adamw", "muon"), default="adamw")
    parser.add_argument(
        "--recompute", action="store_true", help="training: compute activations again"
    )
    parser.add_argument(
        "--headroom", type=float, default=0.05, metavar="SHARE",
        help="of each device that is kept free; default: 0.05",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change a setting of a preset; may be repeated",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Plan, and print it."""
    from deepseek.cli.console import next_step
    from deepseek.model.device_layout import Devices
    from deepseek.model.device_plan import DevicePlanner, Workload, format_rows

    devices = Devices.parse(args.devices)
    config = _config_of(args.model, tuple(args.set))
    context = args.context or config.context_window
    is_long = args.attention == "auto" and context > config.context_window
    work = Workload(
        context=context,
        batch=args.batch,
        kv_format=args.kv_dtype,
        has_nodes=config.attention == "dense" and (is_long or args.attention == "hierarchical"),
        training=args.training,
        optimiser=args.optimiser,
        recompute=args.recompute,
        headroom=args.headroom,
    )
    plan = DevicePlanner(config, args.dtype, work).plan(devices)
    rows = format_rows(config, work.context, work.batch)
    if args.json:
        print(json.dumps(_table(args, config, plan, rows), indent=2))
        return 0
    _print(args, config, plan, work)
    _print_formats(rows, work)
    command = f"deepseek plan {args.model} --devices {args.devices}"
    if not plan.chosen.fits and plan.smallest is not None:
        n = plan.smallest.layout.n_devices
        command = f"deepseek plan {args.model} --devices {n}x{args.devices.rpartition('x')[2]}"
    next_step(f"{command}{' --training' * args.training} --dtype {_other(args)} --json")
    return 0


def _config_of(name: str, overrides: tuple[str, ...]) -> "ModelConfig":
    """The shape of a preset, or of a checkpoint, which is pulled if need be."""
    from deepseek.core.errors import ConfigError
    from deepseek.model.config import ModelConfig, load_preset
    from deepseek.weights.pull import ensure
    from deepseek.weights.source import open_weights

    if name.endswith(".toml"):
        return load_preset(Path(name), overrides)
    files = [folder / f"{name}.toml" for folder in CONFIGS]
    if file := next((file for file in files if file.is_file()), None):
        return load_preset(file, overrides)
    if overrides:
        raise ConfigError(f"{name} is no preset, and a checkpoint's shape is fixed", "drop --set")
    return ModelConfig.from_checkpoint(open_weights(ensure(name).path).config())


def _print(
    args: argparse.Namespace, config: "ModelConfig", plan: "DevicePlan", work: "Workload"
) -> None:
    from deepseek.adapt.upcycle import active_parameters
    from deepseek.model.device_layout import reasons

    chosen, devices = plan.chosen, plan.devices
    print(
        f"{args.model}: {config.n_parameters / 1e6:,.1f} M parameters, "
        f"{active_parameters(config) / 1e6:,.1f} M for a token"
    )
    what = "training on" if work.training else "serving"
    seen = "hierarchical" if work.has_nodes else config.attention
    print(
        f"{what} {work.batch:,} x {work.context:,} tokens in {args.dtype}, {seen} attention, "
        f"{devices.n:,} x {devices.n_bytes / GB:,.1f} GB"
    )
    verdict = "fits" if chosen.fits else f"DOES NOT FIT: {-chosen.memory.left / GB:,.2f} GB short"
    print(f"\nlayout: {chosen.layout}: {verdict}")
    for reason in reasons(chosen.layout, training=work.training) if chosen.fits else []:
        print(f"  {reason}")
    print(f"\nThe fullest device:\n{chosen.memory}")
    if plan.passed_over:
        print("\nOthers that do not fit, GB on the fullest device:")
        for tried in plan.passed_over[:8]:
            print(f"  {tried.layout}: {tried.memory.total / GB:,.2f}")
    print(f"\nsmallest that fits: {_smallest(plan.smallest)}")


def _smallest(tried: "Tried | None") -> str:
    if tried is None:
        return "none; use larger devices, fewer tokens, or fewer bits"
    n = tried.layout.n_devices
    return f"{n:,} such device{'s' * (n > 1)}, {tried.layout}, {tried.memory.total / GB:,.2f} GB"


def _print_formats(rows: tuple["FormatRow", ...], work: "Workload") -> None:
    print(f"\nAll weights, and {work.batch:,} x {work.context:,} tokens of keys and values, GB:")
    print("format      weights   scales    wide   together   cache      sum   times smaller")
    for row in rows:
        cells = (row.stored.codes, row.stored.scales, row.stored.wide, row.stored.total)
        numbers = [*cells, row.cache, row.stored.total + row.cache]
        written = "  ".join(f"{n / GB:>8,.2f}" for n in numbers)
        print(f"{row.name:<9} {written}   {_ratio(rows, row):>8.2f}")
    print("'times smaller': weights alone, against float32")


def _ratio(rows: tuple["FormatRow", ...], row: "FormatRow") -> float:
    return rows[0].stored.total / row.stored.total


def _other(args: argparse.Namespace) -> str:
    if args.training:
        return "float32" if args.dtype == "bfloat16" else "bfloat16"
    return "int8" if args.dtype == "int4" else "int4"


def _table(
    args: argparse.Namespace,
    config: "ModelConfig",
    plan: "DevicePlan",
    rows: tuple["FormatRow", ...],
) -> dict[str, Any]:
    from deepseek.adapt.upcycle import active_parameters
    from deepseek.model.device_layout import reasons

    return {
        "model": args.model,
        "n_parameters": config.n_parameters,
        "n_active_parameters": active_parameters(config),
        "devices": {"n": plan.devices.n, "n_bytes": plan.devices.n_bytes},
        "fits": plan.chosen.fits,
        "layout": _tried(plan.chosen),
        "reasons": reasons(plan.chosen.layout, training=args.training),
        "passed_over": [_tried(tried) for tried in plan.passed_over],
        "smallest": None if plan.smallest is None else _tried(plan.smallest),
        "formats": [
            {
                "name": row.name,
                "codes": row.stored.codes,
                "scales": row.stored.scales,
                "wide": row.stored.wide,
                "weights": row.stored.total,
                "cache": row.cache,
                "times_smaller": _ratio(rows, row),
            }
            for row in rows
        ],
    }


def _tried(tried: "Tried") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(tried.layout) | {
        "n_devices": tried.layout.n_devices,
        "fits": tried.fits,
        "memory": {name: n_bytes for name, n_bytes, _ in tried.memory.rows()},
    }
