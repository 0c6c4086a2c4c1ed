"""Models trained on the same windows of prose and code, to be compared: one arm each.

Prose is Python's manual (a Debian package, fetched once), code is Python's standard library. Every
arm's result is kept in out/arms under what it depends on: a run that was stopped goes on with the
arms that are missing.
"""

import json
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepseek.model.config import ModelConfig
from deepseek.model.moe.load import ExpertLoad, mixtures_of
from deepseek.model.packed import PackedCache
from deepseek.model.transformer import Transformer
from deepseek.train.config import load_training_config
from deepseek.train.evaluation import HeldOut
from deepseek.train.run import prepare_run
from report import ROOT, kept, say
from texts import MANUAL, package

KEPT = ROOT / "out" / "arms"
PACKAGES = frozenset(
    "asyncio collections concurrent ctypes email html http importlib json logging multiprocessing "
    "re sqlite3 tkinter tomllib unittest urllib wsgiref xml xmlrpc zoneinfo".split()
)
DOMAINS = {"prose": "text", "code": "code"}
CONFIG = """
[run]
window = {window}
batch = {batch}
micro = {micro}
seed = {seed}
dtype = "{dtype}"
[model]
{model}
[tokenizer]
vocab_size = 4096
sample = 2_000_000
[sources.prose]
paths = {prose}
{prose_domain}
[sources.code]
paths = {code}
{code_domain}
[optimiser]
kind = "{optimiser}"
rate = {rate}
decay = {decay}
[trainable]
groups = {groups}
[[stages]]
name = "only"
tokens = {tokens}
weights = {{ prose = 1, code = 1 }}
[evaluation]
every = 100_000
held_out = 0.1
tokens = 4_096
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One model and how it is trained."""

    name: str
    model: ModelConfig | Path
    """A shape that learns from random weights, or a checkpoint's folder."""
    tokens: int
    held_out: int
    """Tokens of each source that it is measured on."""
    seed: int = 0
    optimiser: str = "muon"
    rate: float = 4e-3
    decay: float = 0.1
    window: int = 256
    batch: int = 4
    """Small, for many steps: a tiny model learns more from 200 of 1,024 tokens than from 50 of
    four times as many (5.4 nats, not 6.8)."""
    micro: int = 4
    dtype: str = "float32"
    labels: bool = True
    """Whether the gate is told what is code, in training; a dense model has no gate."""
    groups: tuple[str, ...] = ()
    """Groups of experts that are trained alone."""
    threads: int | None = None
    """None: as many as there are; what sums differ by makes no other arm."""

    @property
    def has_labels(self) -> bool:
        """Whether sources name their group of experts."""
        names = _groups(self.model)
        return self.labels and all(name in names for name in DOMAINS.values())

    def config(self, prose: list[str], code: list[str], preset: Path) -> str:
        """The run's file."""
        model = f"preset = {json.dumps(str(preset))}"
        if isinstance(self.model, Path):
            model = f"checkpoint = {json.dumps(str(self.model))}"
        fields = asdict(self) | {"model": model, "groups": json.dumps(list(self.groups))}
        for source, group in DOMAINS.items():
            fields[f"{source}_domain"] = f'domain = "{group}"' if self.has_labels else ""
        paths = {"prose": json.dumps(prose), "code": json.dumps(code)}
        return CONFIG.format(**fields, **paths)


def _groups(model: ModelConfig | Path) -> list[str]:
    if isinstance(model, Path):
        model = ModelConfig.from_checkpoint(json.loads((model / "config.json").read_text()))
    return [group.name for group in model.moe.groups] if model.moe else []


def texts(quick: bool) -> tuple[list[str], list[str]]:
    """Files of prose and of code."""
    library = Path(sysconfig.get_paths()["stdlib"])
    if quick:
        return [str(ROOT / "docs")], [str(library / "json"), str(library / "email")]
    code = [str(p) for p in library.iterdir() if p.suffix == ".py" or p.name in PACKAGES]
    return [str(package(MANUAL))], sorted(code)


def run_arm(arm: Arm, quick: bool = False) -> dict[str, Any]:
    """Train and measure an arm, or give what is known of it.

    Returns:
        `nats` by source and in all, `labelled` the same with the gate told what is code, `loads`
        (without labels), `empty` (share of slots that the gate left empty), `n_parameters`,
        `seconds`, `left_out` (steps that changed nothing).
    """
    prose, code = texts(quick)
    with tempfile.TemporaryDirectory() as folder:
        preset, file = Path(folder) / "shape.toml", Path(folder) / "run.toml"
        shape = ""
        if isinstance(arm.model, ModelConfig):
            shape = as_toml(arm.model)
            preset.write_text(shape)
        text = arm.config(prose, code, preset)
        key = shape + text.replace(folder, "") + str(arm.held_out)
        threads = "" if arm.threads is None else f"threads = {arm.threads}"

        def make() -> dict[str, Any]:
            file.write_text(text.replace("[run]", f"[run]\n{threads}"))
            run = prepare_run(load_training_config(file), Path(folder) / "out")
            run.train()
            found = _measured(run.trainer.model, run.corpora, arm)
            left_out = steps_left_out(Path(folder) / "out")
            return {**found, "arm": arm.name, "seed": arm.seed, "left_out": left_out}

        return kept_result(key, make, quick)


def kept_result(key: str, make: Callable[[], dict[str, Any]], quick: bool) -> dict[str, Any]:
    """What is known of an arm, or what `make` finds of it, with its `seconds`.

    Args:
        key: All that the result depends on.
        make: Trains and measures; gives at least `arm`, `seed` and `nats` or `bits_per_byte`.
        quick: Keep nothing.
    """
    file = KEPT / f"{sha256(key.encode()).hexdigest()[:20]}.json"

    def timed() -> dict[str, Any]:
        start = time.perf_counter()
        found = make()
        found["seconds"] = time.perf_counter() - start
        losses = found.get("nats") or found["bits_per_byte"]
        say(f"{found['arm']}, seed {found['seed']}: {losses} in {found['seconds']:.0f} s")
        if left_out := found.get("left_out"):
            say(f"{left_out} steps were left out")
        return found

    return timed() if quick and not file.exists() else kept(file, timed)  # type: ignore[no-any-return]


def steps_left_out(run: Path) -> int:
    """Steps of a run that changed nothing: with many of them it says nothing either."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return sum(bool(json.loads(line).get("skipped")) for line in lines)


def _measured(model: Transformer, corpora: Any, arm: Arm) -> dict[str, Any]:
    sets = {name: corpus.held_out for name, corpus in corpora.items()}
    reader = HeldOut(sets, arm.window, arm.held_out)
    found = held_out(model, reader, labels=False)
    if arm.has_labels:
        found["labelled"] = held_out(model, reader, labels=True)["nats"]
    return found | {"n_parameters": model.config.n_parameters}


@torch.no_grad()
def held_out(model: Transformer, reader: HeldOut, labels: bool) -> dict[str, Any]:
    """Nats a token of both sources, and where their tokens went."""
    moe = model.config.moe
    layers = mixtures_of(model) if moe else []
    total = ExpertLoad(moe, len(layers)) if moe else None
    for layer in layers:
        layer.take_load()
    nats, n_slots = dict[str, float](), 0
    for name, group in DOMAINS.items():
        read, n_labels = 0.0, 0
        for row in reader.rows(name, torch.device("cpu")):
            domains = None
            if labels and moe:
                domains = torch.full_like(row.ids, moe.group(group))
            hidden = model.hidden_states(row.ids, PackedCache(row.lengths), domains=domains)
            logits = model.head(model.norm(hidden))[0]
            loss = nn.functional.cross_entropy(
                logits.float(), row.labels, ignore_index=-100, reduction="sum"
            )
            read, n_labels = read + float(loss), n_labels + int((row.labels >= 0).sum())
            n_slots += row.ids.numel() * (moe.n_active_experts if moe else 0) * len(layers)
        nats[name] = read / n_labels
        if total is not None:
            # counted by text, though the gate was not told
            for place, layer in enumerate(layers):
                total.counts[place, total.moe.group(group) if _has(total, group) else -1] += (
                    layer.take_load().sum(0)
                )
    nats["all"] = sum(nats.values()) / len(nats)
    if total is None:
        return {"nats": nats, "loads": None, "empty": 0.0}
    empty = 1 - float(total.counts.sum()) / n_slots
    return {"nats": nats, "loads": total.report(), "empty": empty}


def _has(load: ExpertLoad, group: str) -> bool:
    return group in [g.name for g in load.moe.groups]


def as_toml(shape: ModelConfig) -> str:
    """A preset; every value is a number, a word or a list of numbers."""
    table = asdict(shape)
    moe = table.pop("moe")
    table.pop("memory")
    sections = [("[model]", table)]
    if moe:
        groups = moe.pop("groups")
        sections += [("[moe]", moe), *(("[[moe.groups]]", group) for group in groups)]
    lines = []
    for head, values in sections:
        known = {name: value for name, value in values.items() if value is not None}
        lines += [head, *(f"{name} = {json.dumps(value)}" for name, value in known.items())]
    return "\n".join(lines)
