"""Mixtures of experts: how busy experts are under each routing, and what their layers cost.

    python benchmarks/moe.py [--parts routing layer] [--tokens 600000] [--seeds 1] [--quick]

* routing: `r1-tiny-moe` is trained from scratch on the same windows of prose (documents and
  licences on this machine) and code (Python's standard library) under each way to choose experts;
  then held-out text says how many nats a token takes, and how busy experts are. The row that is
  judged: biases that follow the load against unbalanced top-2 routing.
* layer: a layer of SmolLM2's size with 16 experts beside its dense one, and form C beside
  transformers' own mixture with the same sizes, taking turns: packed for the kernels, which is what
  a loaded model has, and through torch.

Each part keeps its rows in out/moe; a run writes benchmarks/results/moe.json and .md from all parts
that are there (not with --quick).
"""

import argparse
import json
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from deepseek.core.threads import thread_count
from deepseek.model.config import ModelConfig, load_preset
from deepseek.model.feed_forward import FeedForward
from deepseek.model.linear import Linear
from deepseek.model.moe.config import ExpertGroup, MoEConfig
from deepseek.model.moe.gate import Routing
from deepseek.model.moe.layer import MoELayer, mixture_of
from deepseek.model.moe.load import ExpertLoad, mixtures_of
from deepseek.model.packed import PackedCache
from deepseek.model.transformer import Transformer
from deepseek.ops import native
from deepseek.train.config import load_training_config
from deepseek.train.evaluation import HeldOut
from deepseek.train.run import prepare_run
from report import ROOT, Row, paired_row, say, say_row, write_results

KEPT = ROOT / "out" / "moe"
PARTS = ("routing", "layer")
ARMS: dict[str, dict[str, Any]] = {
    "biases that follow the load": {},
    "unbalanced top-2": {"balance": "none"},
    "balance loss": {"balance": "none", "balance_loss": 1e-2},
    "fixed by domain": {"balance": "none", "routing": "fixed"},
    "hash of the token": {"balance": "none", "routing": "hash"},
}
JUDGED, STATIC = tuple(ARMS)[:2]
BUSY, EQUAL_LOSS = (1.4, 2.0), 0.005
D_MODEL, D_FF, RANKS = 576, 1536, (16,) * 16
LAYER, DECODE, PEER = (1.4, 1.15), (1.4, 1.10), (1.5, 3.0)
MANY = 1_024
NATIVE, TORCH = "kernels", "torch"
CONFIG = """
[run]
window = 256
batch = 16
micro = 8
seed = {seed}
threads = {threads}
[model]
preset = {preset}
[tokenizer]
vocab_size = 4096
[sources.prose]
paths = {prose}
domain = "text"
[sources.code]
paths = {code}
domain = "code"
[optimiser]
rate = 3e-3
[[stages]]
name = "only"
tokens = {tokens}
weights = {{ prose = 1, code = 1 }}
[evaluation]
every = 100_000
held_out = 0.1
tokens = {held_out}
"""


def texts(quick: bool) -> tuple[list[str], list[str]]:
    """Files of prose and of code that are on this machine whatever is installed."""
    library = Path(sysconfig.get_paths()["stdlib"])
    if quick:
        return [str(ROOT / "docs")], [str(library / "json"), str(library / "email")]
    site = Path(sysconfig.get_paths()["purelib"])
    prose = [p for s in ("*.rst", "*.md", "*.txt") for p in site.rglob(s) if p.stat().st_size > 400]
    code = [str(p) for p in library.iterdir() if p.suffix == ".py" or p.name in PACKAGES]
    return [str(ROOT / "docs"), str(ROOT / "README.md"), *map(str, sorted(prose))], sorted(code)


PACKAGES = frozenset("asyncio concurrent ctypes email http json logging unittest xml".split())


def train(arm: str, seed: int, args: argparse.Namespace) -> tuple[float, dict[str, Any]]:
    """Nats a held-out token takes, and the report of loads."""
    shape = load_preset(ROOT / "configs" / "r1-tiny-moe.toml")
    assert shape.moe is not None
    shape = replace(shape, moe=replace(shape.moe, **ARMS[arm]))
    prose, code = texts(args.quick)
    with tempfile.TemporaryDirectory() as folder:
        preset, file = Path(folder) / "shape.toml", Path(folder) / "run.toml"
        preset.write_text(as_toml(shape))
        values = {"preset": str(preset), "prose": prose, "code": code}
        quoted = {name: json.dumps(value) for name, value in values.items()}
        sizes = {"tokens": args.tokens, "held_out": args.held_out, "threads": thread_count()[0]}
        file.write_text(CONFIG.format(seed=seed, **quoted, **sizes))
        run = prepare_run(load_training_config(file), Path(folder) / "out")
        run.train()
        sets = {name: corpus.held_out for name, corpus in run.corpora.items()}
        return held_out(run.trainer.model, HeldOut(sets, 256, args.held_out))


def as_toml(shape: ModelConfig) -> str:
    """A preset; every value is a number, a word or a list of numbers."""
    table = asdict(shape)
    moe, groups = table.pop("moe"), None
    table.pop("memory")
    groups = moe.pop("groups")
    sections = [("[model]", table), ("[moe]", moe), *(("[[moe.groups]]", g) for g in groups)]
    lines = []
    for head, values in sections:
        known = {name: value for name, value in values.items() if value is not None}
        lines += [head, *(f"{name} = {json.dumps(value)}" for name, value in known.items())]
    return "\n".join(lines)


@torch.no_grad()
def held_out(model: Transformer, texts: HeldOut) -> tuple[float, dict[str, Any]]:
    """Read what was held out of both sources, each with its domain."""
    assert model.config.moe is not None
    layers = mixtures_of(model)
    total = ExpertLoad(model.config.moe, len(layers))
    nats, n_labels = 0.0, 0
    for layer in layers:
        layer.take_load()
    for name, group in (("prose", "text"), ("code", "code")):
        for row in texts.rows(name, torch.device("cpu")):
            domains = torch.full_like(row.ids, model.config.moe.group(group))
            hidden = model.hidden_states(row.ids, PackedCache(row.lengths), domains=domains)
            logits = model.head(model.norm(hidden))[0]
            loss = nn.functional.cross_entropy(
                logits, row.labels, ignore_index=-100, reduction="sum"
            )
            nats, n_labels = nats + float(loss), n_labels + int((row.labels >= 0).sum())
        total.add(torch.stack([layer.take_load() for layer in layers]))
    return nats / n_labels, total.report()


def routing_rows(args: argparse.Namespace) -> list[Row]:
    """All arms, and the two that are compared."""
    rows, busy, nats = list[Row](), dict[str, list[float]](), dict[str, list[float]]()
    for arm in ARMS:
        found = [train(arm, seed, args) for seed in range(args.seeds)]
        nats[arm] = [loss for loss, _ in found]
        busy[arm] = [report["mean"]["u_busy"] for _, report in found]
        for name in ("u_busy", "u_entropy", "cv"):
            values = [report["mean"][name] for _, report in found]
            rows.append(_mean_row(f"routing, {arm}: {name}, mean of layers", values, "share"))
        worst = [report["worst"]["u_busy"] for _, report in found]
        rows.append(_mean_row(f"routing, {arm}: u_busy, worst layer", worst, "share"))
        dead = [float(report["dead_experts"]) for _, report in found]
        row = _mean_row(f"routing, {arm}: dead experts of all layers", dead, "experts", "lower")
        row.must = 0.0 if arm == JUDGED else None
        rows += [row, _mean_row(f"routing, {arm}: held-out loss", nats[arm], "nats", "lower")]
        say(f"{arm}: busy {fmean(busy[arm]):.3f}, loss {fmean(nats[arm]):.4f}")
    pairs = list(zip(busy[JUDGED], busy[STATIC], strict=True))
    name = f"routing: u_busy, {JUDGED} against {STATIC}"
    rows.append(paired_row(name, "share", STATIC, pairs, [a / b for a, b in pairs], BUSY))
    apart = [a - b for a, b in zip(nats[JUDGED], nats[STATIC], strict=True)]
    loss = _mean_row(f"routing: loss, {JUDGED} less {STATIC}", apart, "nats", "lower")
    loss.must = EQUAL_LOSS
    return [*rows, loss]


def _mean_row(name: str, values: Sequence[float], unit: str, better: Any = "higher") -> Row:
    low, high = min(values), max(values)
    return Row(name, fmean(values), unit, None, None, None, len(values), low, high, better=better)


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


def main() -> None:
    """Run the parts that were asked for and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--tokens", type=int, default=600_000, help="that each arm learns from")
    parser.add_argument("--held-out", type=int, default=60_000, help="tokens of each source")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--experts", default="grouped_mm", help="how transformers computes them")
    parser.add_argument("--quick", action="store_true", help="few tokens and rounds, no file")
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.held_out, args.rounds = 8_192, 2_000, 2
    made = {"routing": routing_rows, "layer": layer_rows}
    for part in args.parts:
        rows = made[part](args)
        if not args.quick:
            KEPT.mkdir(parents=True, exist_ok=True)
            (KEPT / f"{part}.json").write_text(json.dumps([asdict(row) for row in rows]))
    if not args.quick:
        parts = [json.loads((KEPT / f"{p}.json").read_text()) for p in PARTS
                 if (KEPT / f"{p}.json").exists()]  # fmt: skip
        write_results("moe", [Row(**row) for part in parts for row in part], sys.argv)


if __name__ == "__main__":
    main()
