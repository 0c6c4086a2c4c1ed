"""Mixtures of experts, trained for real: loads, quality, sizes of experts, fewer of them.

    python benchmarks/moe_training.py [--parts routing scratch sizes budget upcycled] [--seeds 1]

* routing: one small mixture under five ways to choose experts: how busy experts are on held-out
  text, and at which loss. Judged: biases that follow the load against unbalanced top-2 routing.
* scratch: 16 SwiGLU experts, two for a token, against a dense model of as many active weights.
* sizes: experts of four widths against equal ones of as many weights in all.
* budget: experts that may be left out, one and a half for a token on average, against always two.
* upcycled: SmolLM2 with 16 experts of low rank against one low-rank addition of as many weights.

All arms of a part see the same windows; benchmarks/arms.py keeps what is done. Each part keeps its
rows in out/moe, and benchmarks/results/moe.json has those of all parts that are there.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from arms import Arm, run_arm
from deepseek.model.config import ModelConfig, load_preset
from deepseek.model.moe.config import ExpertGroup, MoEConfig
from deepseek.model.moe.load import ExpertLoad
from report import RESULTS, ROOT, Row, keep_rows, paired_row, say, say_row

ROUTINGS: dict[str, dict[str, Any]] = {
    "biases that follow the load": {},
    "unbalanced top-2": {"balance": "none"},
    "balance loss": {"balance": "none", "balance_loss": 1e-2},
    "fixed by domain": {"balance": "none", "routing": "fixed"},
    "hash of the token": {"balance": "none", "routing": "hash"},
}
JUDGED, STATIC = tuple(ROUTINGS)[:2]
PICTURES = {JUDGED: "moe_load.svg", STATIC: "moe_load_unbalanced.svg"}
BUSY, EQUAL_LOSS = (1.4, 2.0), 0.005
WIDTH, N_EXPERTS = 192, 16
WIDTHS = (96, 160, 224, 288)
"""Of heterogeneous experts, four of each: as many neurons as 16 of the usual width."""
BUDGETS = (1.5, 1.0)
RATES = (1e-3, 3e-4)
"""Both sides of `upcycled` have the better of these, found with the first seed."""
Result = Mapping[str, Any]


def small(moe: MoEConfig | None) -> ModelConfig:
    """The tiny model, its vocabulary learned from the texts."""
    shape = load_preset(ROOT / "configs" / "r1-tiny.toml", ("model.vocab_size=4096",))
    return replace(shape, moe=moe)


def full(sizes: tuple[int, ...], **changes: Any) -> MoEConfig:
    """SwiGLU experts in one group."""
    groups = (ExpertGroup(name="general", sizes=sizes, always=True),)
    return MoEConfig(form="full", groups=groups, **changes)


def arms_of(
    args: argparse.Namespace, name: str, shape: ModelConfig, factor: int = 1, labels: bool = True
) -> list[Arm]:
    """One arm for each seed."""
    return [
        Arm(
            name=name,
            labels=labels,
            model=shape,
            tokens=factor * args.tokens,
            held_out=args.held_out,
            seed=seed,
            threads=args.threads,
        )
        for seed in range(args.first, args.first + args.seeds)
    ]


def results(args: argparse.Namespace, arms: list[Arm]) -> list[Result]:
    """Of all seeds."""
    return [run_arm(arm, args.quick) for arm in arms]


def routing_rows(args: argparse.Namespace) -> list[Row]:
    """All routings, and the two that are compared."""
    rows, busy, nats = list[Row](), dict[str, list[float]](), dict[str, list[float]]()
    shape = load_preset(ROOT / "configs" / "r1-tiny-moe.toml", ("model.vocab_size=4096",))
    assert shape.moe is not None
    for name, changes in ROUTINGS.items():
        arm = replace(shape, moe=replace(shape.moe, **changes))
        # Without labels, as it is measured; the gate of "fixed by domain" knows nothing then.
        is_labelled = changes.get("routing") == "fixed"
        found = results(args, arms_of(args, name, arm, labels=is_labelled))
        nats[name] = [r.get("labelled", r["nats"])["all"] for r in found]
        loads = [r["loads"] for r in found]
        busy[name] = [report["mean"]["u_busy"] for report in loads]
        for figure in ("u_busy", "u_entropy", "cv"):
            values = [report["mean"][figure] for report in loads]
            rows.append(mean_row(f"routing, {name}: {figure}, mean of layers", values, "share"))
        worst = [report["worst"]["u_busy"] for report in loads]
        rows.append(mean_row(f"routing, {name}: u_busy, worst layer", worst, "share"))
        if not args.quick and name in PICTURES:
            draw_loads(arm, loads[0], RESULTS / PICTURES[name])
        dead = [float(report["dead_experts"]) for report in loads]
        row = mean_row(f"routing, {name}: dead experts of all layers", dead, "experts", "lower")
        row.must = 0.0 if name == JUDGED else None
        rows += [row, mean_row(f"routing, {name}: held-out loss", nats[name], "nats", "lower")]
    pairs = list(zip(busy[JUDGED], busy[STATIC], strict=True))
    name = f"routing: u_busy, {JUDGED} against {STATIC}"
    rows.append(paired_row(name, "share", STATIC, pairs, [a / b for a, b in pairs], BUSY))
    apart = [a - b for a, b in zip(nats[JUDGED], nats[STATIC], strict=True)]
    loss = mean_row(f"routing: loss, {JUDGED} less {STATIC}", apart, "nats", "lower")
    loss.must = EQUAL_LOSS
    return [*rows, loss]


def draw_loads(shape: ModelConfig, report: Mapping[str, Any], file: Path) -> None:
    """Experts across, layers down, of one seed on held-out text."""
    assert shape.moe is not None
    load = ExpertLoad(shape.moe, shape.n_layers)
    load.counts[:, -1] = torch.tensor([layer["load"] for layer in report["layers"]])
    file.write_text(load.heat_map(), encoding="utf-8")


def scratch_rows(args: argparse.Namespace) -> list[Row]:
    """A mixture, a dense model, and that with twice the tokens."""
    ours = results(args, arms_of(args, "16 experts", small(full((WIDTH,) * N_EXPERTS))))
    dense = results(args, arms_of(args, "dense", small(None)))
    double = results(args, arms_of(args, "dense, twice the tokens", small(None), factor=2))
    return [
        less_row("from scratch: loss, 16 experts less dense of equal active weights", ours, dense),
        less_row("from scratch: loss, 16 experts less dense with twice the tokens", ours, double,
                 must=None),
    ]  # fmt: skip


def sizes_rows(args: argparse.Namespace) -> list[Row]:
    """Widths that differ, and equal ones."""
    mixed = tuple(width for width in WIDTHS for _ in range(N_EXPERTS // len(WIDTHS)))
    ours = results(args, arms_of(args, "experts of four widths", small(full(mixed))))
    equal = results(args, arms_of(args, "16 experts", small(full((WIDTH,) * N_EXPERTS))))
    name = "sizes: loss, experts of four widths less equal ones"
    return [less_row(name, ours, equal, must=args.noise)]


def budget_rows(args: argparse.Namespace) -> list[Row]:
    """Experts that may be left out."""
    always = results(args, arms_of(args, "16 experts", small(full((WIDTH,) * N_EXPERTS))))
    rows = []
    for budget in BUDGETS:
        moe = full((WIDTH,) * N_EXPERTS, budget=budget)
        ours = results(args, arms_of(args, f"budget of {budget:g}", small(moe)))
        saved = mean_row(
            f"budget of {budget:g}: experts' operations saved",
            [r["empty"] for r in ours], "share",
        )  # fmt: skip
        loss = less_row(f"budget of {budget:g}: loss less that of always two", ours, always)
        if budget == BUDGETS[0]:
            saved.must, saved.moonshot, loss.must = 0.25, 0.5, 0.01
        else:
            loss.must = None
        rows += [saved, loss]
    return rows


def upcycled_rows(args: argparse.Namespace) -> list[Row]:
    """SmolLM2 with experts, and with one low-rank addition of the same size."""
    sides = {
        "16 experts": (_upcycled("r1-smol", []), ("general", "text", "code")),
        "one addition": (
            _upcycled("r1-smol-one", ["--experts", "1", "--top-k", "1", "--groups",
                                      "general=256x1", "--calibration", "none"]),
            ("general",),
        ),
    }  # fmt: skip
    found, rate = dict[str, list[Result]](), dict[str, float]()
    for name, (folder, groups) in sides.items():

        def arm(seed: int, rate: float, f: Path = folder, n: str = name,
                g: tuple[str, ...] = groups) -> Result:  # fmt: skip
            return run_arm(
                Arm(name=f"SmolLM2, {n}, rate {rate:g}", model=f, tokens=args.smol_tokens,
                    held_out=args.held_out // 2, seed=seed, optimiser="adamw", rate=rate, decay=0.0,
                    window=512, batch=8, micro=4, dtype="bfloat16", groups=g, threads=args.threads),
                args.quick,
            )  # fmt: skip

        first = {r: arm(0, r) for r in RATES}
        rate[name] = min(first, key=lambda r: first[r]["nats"]["all"])
        found[name] = [first[rate[name]], *(arm(s, rate[name]) for s in range(1, args.smol_seeds))]
    say(f"rates: {rate}")
    rows = []
    ours, theirs = found.values()
    for source, moonshot in (("code", 0.95), ("prose", 0.99)):
        for how in ("nats", "labelled"):
            pairs = [(a[how][source], b["nats"][source])
                     for a, b in zip(ours, theirs, strict=True)]  # fmt: skip
            told = ", the gate told what it is" if how == "labelled" else ""
            name = f"upcycled SmolLM2: loss on {source}{told}"
            ratios = [a / b for a, b in pairs]
            row = paired_row(name, "nats", "one low-rank addition", pairs, ratios, (1.0, moonshot))
            row.better = "lower"
            rows.append(row)
    return rows


def _upcycled(name: str, options: list[str]) -> Path:
    folder = ROOT / "out" / "arms" / name
    if not (folder / "model.safetensors").exists():
        command = [sys.executable, "-m", "deepseek", "upcycle", "smollm2-135m", "--out", folder]
        subprocess.run([*command, *options], check=True)
    return folder


def less_row(name: str, ours: list[Result], theirs: list[Result], must: float | None = 0.0) -> Row:
    """Our loss less theirs, over all held-out text."""
    apart = [a["nats"]["all"] - b["nats"]["all"] for a, b in zip(ours, theirs, strict=True)]
    row = mean_row(name, apart, "nats", "lower")
    row.must = must
    return row


def mean_row(name: str, values: list[float], unit: str, better: Any = "higher") -> Row:
    """The mean of the seeds, and their range."""
    low, high = min(values), max(values)
    return Row(name, fmean(values), unit, None, None, None, len(values), low, high, better=better)


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "routing": routing_rows,
    "scratch": scratch_rows,
    "sizes": sizes_rows,
    "budget": budget_rows,
    "upcycled": upcycled_rows,
}


def main() -> None:
    """Run the parts that were asked for and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="that an arm learns from")
    parser.add_argument("--held-out", type=int, default=60_000, help="tokens of each source")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--threads", type=int, help="of an arm")
    parser.add_argument("--smol-tokens", type=int, default=100_000, help="of `upcycled`")
    parser.add_argument("--smol-seeds", type=int, default=3)
    parser.add_argument("--noise", type=float, default=0.0, help="of `sizes`: nats that are equal")
    parser.add_argument("--quick", action="store_true", help="few tokens, no file")
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.held_out, args.smol_tokens, args.smol_seeds = 8_192, 2_000, 4_096, 1
    for part in args.parts:
        rows = PARTS[part](args)
        for row in rows:
            say_row(row)
        if not args.quick:
            keep_rows("moe", part, rows)


if __name__ == "__main__":
    main()
