"""What the layers of mixtures of experts cost.

    python benchmarks/moe.py [--parts layer decoder] [--rounds 5] [--quick]

Part `layer`: a layer of SmolLM2's size with 16 experts of low rank beside its dense one, and
SwiGLU experts beside transformers' own mixture with the same sizes, taking turns: packed for the
kernels, which is what a loaded model has, and through torch. Part `decoder`: the layer as tokens
are generated with it, inside one native call for the whole model: time of a model's token less that
of one with hardly any feed-forward layers. benchmarks/moe_training.py measures what mixtures learn;
benchmarks/results/moe.json has the rows of both.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from deepseek.core.threads import thread_count
from deepseek.engine.loader import load_engine
from deepseek.engine.native_runner import NativeRunner
from deepseek.model.checkpoint import save_model
from deepseek.model.config import ModelConfig, load_preset
from deepseek.model.feed_forward import FeedForward
from deepseek.model.linear import Linear
from deepseek.model.moe.config import ExpertGroup, MoEConfig
from deepseek.model.moe.gate import Routing
from deepseek.model.moe.layer import MoELayer, mixture_of
from deepseek.model.transformer import Transformer
from deepseek.ops import native
from deepseek.train.tuning.run import open_base
from report import ROOT, Row, keep_rows, paired_row, say_row

D_MODEL, D_FF, RANKS = 576, 1536, (16,) * 16
LAYER, DECODE, PEER = (1.4, 1.15), (1.4, 1.10), (1.5, 3.0)
MANY = 1_024
MODEL, BARE = "smollm2-135m", 32
"""Whose tokenizer and shape; neurons of a layer that takes hardly any time."""
NATIVE, TORCH = "kernels", "torch"


def layer_rows(args: argparse.Namespace) -> list[Row]:
    """Layers beside dense ones, and beside transformers' mixture."""
    n_threads = thread_count()[0]
    torch.set_num_threads(n_threads)
    native.use_threads(n_threads)
    config = MoEConfig(form="low_rank", groups=(ExpertGroup(name="general", sizes=RANKS),))
    ways = _both_ways(config)
    dense = _packed(_filled(FeedForward(D_MODEL, D_FF)))
    rows = []
    for n_tokens, musts in ((MANY, LAYER), (1, DECODE)):
        x, routing = _tokens(n_tokens)
        for way, layer in ways.items():
            pairs = turns(partial(layer, x, routing), partial(dense, x), args)
            name = f"layer, form A, {way}, {n_tokens:,} tokens: time of the dense layer's"
            judged = musts if way == NATIVE else (None, None)
            row = paired_row(name, "ms", "dense", pairs, [a / b for a, b in pairs], judged)
            row.better = "lower"
            rows.append(row)
    rows += peer_rows(args)
    for row in rows:
        say_row(row)
    return rows


def peer_rows(args: argparse.Namespace) -> list[Row]:
    """Form C and transformers' experts, 16 of width 192, two for a token."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    width = 192
    groups = (ExpertGroup(name="general", sizes=(width,) * 16),)
    ways = _both_ways(MoEConfig(form="full", groups=groups))
    shape: Mapping[str, Any] = {"hidden_size": D_MODEL, "intermediate_size": width}
    config = MixtralConfig(**shape, num_local_experts=16, num_experts_per_tok=2)
    config._experts_implementation = args.experts
    theirs = _filled(MixtralSparseMoeBlock(config), kept="")
    rows = []
    for n_tokens in (MANY, 1):
        x, routing = _tokens(n_tokens)
        for way, ours in ways.items():
            pairs = turns(partial(ours, x, routing), partial(theirs, x), args)
            name = f"layer, form C, {way}, {n_tokens:,} tokens"
            peer = f"transformers' Mixtral, {args.experts}"
            judged = PEER if way == NATIVE else (None, None)
            rows.append(paired_row(name, "ms", peer, pairs, [b / a for a, b in pairs], judged))
    return rows


def decoder_rows(args: argparse.Namespace) -> list[Row]:
    """A token of whole models in int8, with random weights."""
    shape = load_preset(ROOT / "configs" / "smollm2-135m.toml")
    low_rank = MoEConfig(form="low_rank", groups=(ExpertGroup(name="general", sizes=RANKS),))
    shapes = {
        "mixture": replace(shape, moe=low_rank),
        "dense": shape,
        "bare": replace(shape, d_ff=BARE),
    }
    with tempfile.TemporaryDirectory() as folder:
        runners = {name: _runner(own, Path(folder) / name) for name, own in shapes.items()}
        rounds = [
            {name: _step_ms(runner, args) for name, runner in runners.items()}
            for _ in range(args.rounds + 1)
        ][1:]
    per_layer = [
        tuple((times[name] - times["bare"]) / shape.n_layers for name in ("mixture", "dense"))
        for times in rounds
    ]
    whole = [(times["mixture"], times["dense"]) for times in rounds]
    rows = []
    for name, pairs, judged in (
        ("layer, form A, in the native decoder", per_layer, DECODE),
        ("whole model, form A, in the native decoder", whole, (None, None)),
    ):
        about = f"{name}, 1 token: time of the dense one's"
        ratios = [ours / theirs for ours, theirs in pairs]
        row = paired_row(about, "ms", "dense", pairs, ratios, judged)
        row.better = "lower"
        rows.append(row)
        say_row(row)
    return rows


def _runner(shape: ModelConfig, folder: Path) -> NativeRunner:
    model = Transformer(shape)
    model.initialise(0)
    with torch.no_grad():  # experts of low rank that add something
        for name, parameter in model.named_parameters():
            if name.endswith("_b"):
                parameter.normal_(0, 0.02)
    save_model(model.bfloat16(), folder)
    open_base(MODEL)[1].save(folder)
    runner = load_engine(str(folder), dtype="int8")[0].runner
    assert isinstance(runner, NativeRunner), "the native library"
    runner.tree = None
    return runner


def _step_ms(runner: NativeRunner, args: argparse.Namespace) -> float:
    """Milliseconds of a token after few, the median."""
    runner.fill(list(range(1, 65)))
    times = []
    for _ in range(8 if args.quick else 64):
        start = time.perf_counter()
        runner.step(1_000)
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def _both_ways(config: MoEConfig) -> dict[str, nn.Module]:
    """A layer packed for the kernels, and one with plain experts, whose dense part is packed."""
    ways = {way: _packed(_filled(mixture_of(config, D_MODEL, D_FF))) for way in (NATIVE, TORCH)}
    packed = ways[NATIVE]
    assert isinstance(packed, MoELayer)
    packed.experts.pack()
    return ways


def _packed(module: nn.Module) -> nn.Module:
    """Dense matrices as a loaded model has them."""
    for part in module.modules():
        if isinstance(part, Linear):
            part.pack()
    return module


def _tokens(n_tokens: int) -> tuple[Tensor, Routing]:
    x = torch.randn(1, n_tokens, D_MODEL, dtype=torch.bfloat16)
    return x, Routing(torch.zeros(n_tokens, dtype=torch.int64), None)


def _filled(module: MoELayer | nn.Module, kept: str = "gate.") -> nn.Module:
    """Small random numbers everywhere, in bfloat16 but for what is kept as it is."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(0, 0.02)
            if not (kept and name.startswith(kept)):
                parameter.data = parameter.data.bfloat16()
    return module.eval()


@torch.inference_mode()
def turns(
    ours: Callable[[], Tensor], theirs: Callable[[], Tensor], args: argparse.Namespace
) -> list[tuple[float, float]]:
    """Milliseconds of both, taking turns."""
    for _ in range(3):
        ours(), theirs()
    return [(_ms(ours, args), _ms(theirs, args)) for _ in range(args.rounds)]


def _ms(call: Callable[[], Tensor], args: argparse.Namespace) -> float:
    times = []
    for _ in range(3 if args.quick else 15):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


PARTS = {"layer": layer_rows, "decoder": decoder_rows}


def main() -> None:
    """Run the parts that were asked for and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--experts", default="grouped_mm", help="how transformers computes them")
    parser.add_argument("--quick", action="store_true", help="few tokens and rounds, no file")
    args = parser.parse_args()
    if args.quick:
        args.rounds = 2
    for part in args.parts:
        rows = PARTS[part](args)
        if not args.quick:
            keep_rows("moe", part, rows)


if __name__ == "__main__":
    main()
