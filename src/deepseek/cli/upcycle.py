"""`deepseek upcycle`: a dense checkpoint becomes a mixture of experts that computes the same."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepseek.adapt.calibration import Calibration
    from deepseek.adapt.upcycle import UpcycleReport
    from deepseek.model.moe.config import MoEConfig
    from deepseek.tokenizer.tokenizer import Tokenizer

HELP = "Make a mixture of experts of a dense checkpoint; before training it computes the same."
EXAMPLES = (
    "deepseek upcycle smollm2-135m --experts 16 --top-k 2 --out r1-smol",
    "deepseek upcycle smollm2-135m --form B --top-k 16 --calibration text=docs code=src --out r1",
)
FORMS = {"A": "low_rank", "B": "slices", "C": "full"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("base", help="a name from `deepseek models`, a GGUF file or a folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new folder")
    parser.add_argument("--experts", type=int, default=16, metavar="N", help="default: 16")
    parser.add_argument("--top-k", type=int, default=2, metavar="K", help="of a token; default: 2")
    parser.add_argument(
        "--budget", type=float, metavar="N", help="experts of a token on average, at most --top-k"
    )
    parser.add_argument(
        "--form",
        choices=tuple(FORMS),
        default="A",
        help="A: experts of low rank beside the untouched dense layer; B: the layer's neurons in "
        "slices, of which a quarter always computes; C: copies of the layer's two halves",
    )
    parser.add_argument(
        "--groups",
        metavar="SPEC",
        help="domains: name=N or name=SIZExN+SIZExN, comma between; sizes are ranks or neurons",
    )
    parser.add_argument(
        "--calibration",
        nargs="+",
        default=[],
        metavar="[GROUP=]PATH",
        help="text that gates start by; default: text and code that come with Python; `none`: "
        "random rows",
    )
    parser.add_argument(
        "--tokens", type=int, default=16_384, metavar="N", help="of that text; default: 16384"
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="of the new weights: in this format they compute what the dense ones do",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is random")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Convert, and say what came out."""
    from deepseek.adapt.groups import plan_mixture
    from deepseek.adapt.upcycle import upcycle
    from deepseek.cli.console import next_step, progress_bar
    from deepseek.cli.pull import pull_bar
    from deepseek.core.device import DTYPES, choose_compute
    from deepseek.core.errors import ConfigError
    from deepseek.model.config import ModelConfig
    from deepseek.tokenizer.tokenizer import Tokenizer
    from deepseek.weights.pull import ensure
    from deepseek.weights.source import open_weights

    choose_compute("cpu", threads=args.threads)
    with pull_bar(args.base) as on_pull:
        checkpoint = ensure(args.base, on_pull)
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ConfigError(f"{args.out} is there already", "choose a folder that is new or empty")
    source = open_weights(checkpoint.path)
    config = ModelConfig.from_checkpoint(source.config())
    form = FORMS[args.form]
    moe = plan_mixture(
        form,  # type: ignore[arg-type]
        config.d_ff,
        n_experts=args.experts,
        top_k=args.top_k,
        groups=args.groups,
        budget=args.budget,
    )
    if source.folder is not None:
        tokenizer = Tokenizer.from_folder(source.folder)
    else:
        tokenizer = Tokenizer.from_gguf_metadata(source.metadata)
    calibration = _calibration(args, tokenizer, moe)
    with progress_bar("layers") as on_progress:
        report = upcycle(
            source,
            moe,
            args.out,
            calibration=calibration,
            dtype=DTYPES[args.dtype],
            seed=args.seed,
            on_progress=on_progress,
        )
    tokenizer.save(args.out)
    if args.json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print(_described(report, args.out))
    next_step(f"deepseek experts list {args.out}")
    return 0


def _calibration(
    args: argparse.Namespace, tokenizer: "Tokenizer", moe: "MoEConfig"
) -> "Calibration | None":
    from deepseek.adapt.calibration import BUILTIN, builtin_texts, calibrate, named_texts

    if args.calibration == ["none"]:
        return None
    texts = named_texts(args.calibration) if args.calibration else builtin_texts()
    origin = ", ".join(args.calibration) or BUILTIN
    if not texts:
        return None
    return calibrate(texts, tokenizer.encode, moe, origin, args.tokens)


def _described(report: "UpcycleReport", out: Path) -> str:
    difference = "not compared"
    if report.largest_difference is not None:
        difference = f"{report.largest_difference:.1e}"
        if report.largest_difference == 0:
            difference = "none, bit for bit"
    millions = [
        n / 1e6
        for n in (report.n_dense_parameters, report.n_parameters, report.n_active_parameters)
    ]
    return (
        f"{out}: {report.n_experts} experts of form {report.form} in {report.seconds:.1f} s\n"
        f"parameters: {millions[0]:,.1f} M dense, {millions[1]:,.1f} M now, "
        f"{millions[2]:,.1f} M for a token\n"
        f"gates started by: {report.calibration} ({report.n_calibration_tokens:,} tokens)\n"
        f"largest relative difference to the dense layers in {report.dtype}: {difference}"
    )
