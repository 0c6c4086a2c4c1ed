"""`deepseek experts`: the experts of a mixture."""

import argparse
import json
from pathlib import Path
from typing import Any

from deepseek.core.errors import ConfigError

HELP = "List the experts of a mixture, take some out, bring one in, or measure how busy they are."
EXAMPLES = (
    "deepseek experts export r1-smol --expert 12 --out code-expert",
    "deepseek experts load r1-smol --text text=docs code=src --svg load.svg",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "action",
        choices=("list", "export", "import", "remove", "load"),
        help="list all; export one of low rank as a PEFT adapter; import such an adapter as a new "
        "one; remove some; load: read texts and count where tokens go",
    )
    parser.add_argument("model", help="a mixture's folder")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the new adapter or checkpoint")
    parser.add_argument(
        "--expert", type=int, action="append", default=[], metavar="N", help="may be repeated"
    )
    parser.add_argument("--group", metavar="NAME", help="all experts of a group, or import's place")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="import: the adapter")
    parser.add_argument(
        "--text", nargs="+", default=[], metavar="[GROUP=]PATH", help="load: what is read"
    )
    parser.add_argument(
        "--tokens", type=int, default=100_000, metavar="N", help="load: of these; default: 100000"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="load: draw a heat map")
    parser.add_argument("--dtype", default="auto", help="load: auto, bfloat16 or float32")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """List, change or measure experts."""
    return {
        "list": _list,
        "export": _export,
        "import": _import,
        "remove": _remove,
        "load": _load,
    }[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from deepseek.adapt.surgery import list_experts, moe_of
    from deepseek.cli.console import next_step
    from deepseek.model.config import ModelConfig
    from deepseek.weights.source import open_weights

    config = ModelConfig.from_checkpoint(open_weights(Path(args.model)).config())
    experts, moe = list_experts(config), moe_of(config)
    if args.json:
        print(json.dumps([asdict(expert) for expert in experts], indent=2))
        return 0
    unit = "rank" if moe.form == "low_rank" else "neurons"
    print(f"{moe.n_experts} experts of form {moe.form}, {moe.n_active_experts} for a token")
    for e in experts:
        print(f"{e.number:>4}  {e.group:<12}  {unit} {e.size:>5}  {e.n_parameters / 1e6:>8.2f} M")
    next_step(f"deepseek experts load {args.model} --text FILES --svg load.svg")
    return 0


def _export(args: argparse.Namespace) -> int:
    from deepseek.adapt.surgery import export_expert
    from deepseek.cli.console import next_step
    from deepseek.weights.source import open_weights

    source, out, chosen = open_weights(Path(args.model)), _out(args), _chosen(args)
    for number in chosen:
        folder = out if len(chosen) == 1 else out / f"expert-{number}"
        export_expert(source, number, folder, base=Path(args.model).name)
        print(folder)
    next_step(f"deepseek experts import MODEL --adapter {folder} --group NAME --out DIR")
    return 0


def _import(args: argparse.Namespace) -> int:
    from deepseek.adapt.surgery import import_expert, moe_of
    from deepseek.cli.console import next_step
    from deepseek.weights.source import open_weights

    if args.adapter is None or args.group is None:
        raise ConfigError("it is not said what to import", "name --adapter DIR and --group NAME")
    source, out = open_weights(Path(args.model)), _out(args)
    config = import_expert(source, args.adapter, args.group, out)
    print(f"{out}: {moe_of(config).n_experts} experts")
    next_step(f"deepseek experts list {out}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    from deepseek.adapt.surgery import moe_of, remove_experts
    from deepseek.cli.console import next_step
    from deepseek.weights.source import open_weights

    source, out = open_weights(Path(args.model)), _out(args)
    config = remove_experts(source, _chosen(args), out)
    print(
        f"{out}: {moe_of(config).n_experts} experts, {config.n_parameters / 1e6:,.1f} M parameters"
    )
    next_step(f"deepseek experts list {out}")
    return 0


def _load(args: argparse.Namespace) -> int:
    from deepseek.adapt.calibration import BUILTIN, builtin_texts, calibrate, named_texts
    from deepseek.adapt.surgery import moe_of
    from deepseek.cli.console import progress_bar, write_report
    from deepseek.core.device import choose_compute
    from deepseek.model.checkpoint import load_model
    from deepseek.model.config import ModelConfig
    from deepseek.model.moe.load import measure_load
    from deepseek.tokenizer.tokenizer import Tokenizer
    from deepseek.weights.source import open_weights

    source, compute = open_weights(Path(args.model)), choose_compute("cpu", args.dtype)
    moe = moe_of(ModelConfig.from_checkpoint(source.config()))
    tokenizer = Tokenizer.from_folder(Path(args.model))
    texts = named_texts(args.text) if args.text else builtin_texts()
    origin = ", ".join(args.text) or BUILTIN
    sample = calibrate(texts, tokenizer.encode, moe, origin, args.tokens)
    model = load_model(source, dtype=compute.dtype)
    pairs = zip(sample.token_ids.tolist(), sample.domains.tolist(), strict=True)
    windows = [([ids], domain if domain >= 0 else None) for ids, domain in pairs]
    with progress_bar("windows") as on_window:
        load = measure_load(model, windows, lambda done: on_window(done, len(windows)))
    report: dict[str, Any] = {"text": origin, "tokens": sample.n_tokens} | load.report()
    if args.svg:
        write_report(args.svg, load.heat_map())
    if args.json:
        print(json.dumps(report, indent=2))
        return 0
    mean, worst = report["mean"], report["worst"]
    print(f"{sample.n_tokens:,} tokens of {origin}")
    for name in mean:
        print(f"{name:<10}  mean of layers {mean[name]:.3f}, worst {worst[name]:.3f}")
    for name, domain in report["domains"].items():
        shares = ", ".join(f"{g} {s:.0%}" for g, s in domain["share_by_group"].items())
        print(f"{name:<10}  {shares}")
    return 0


def _out(args: argparse.Namespace) -> Path:
    if args.out is None:
        raise ConfigError("it is not said where to write", "name a folder with --out")
    out: Path = args.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already", "choose a folder that is new or empty")
    return out


def _chosen(args: argparse.Namespace) -> list[int]:
    """The experts that `--expert` and `--group` name."""
    from deepseek.adapt.surgery import moe_of
    from deepseek.model.config import ModelConfig
    from deepseek.weights.source import open_weights

    chosen = set(args.expert)
    if args.group is not None:
        moe = moe_of(ModelConfig.from_checkpoint(open_weights(Path(args.model)).config()))
        chosen |= set(range(*moe.bounds[moe.group(args.group)]))
    if not chosen:
        raise ConfigError("no expert is named", "use --expert N or --group NAME")
    return sorted(chosen)
