"""Models trained on the same windows of prose and code, to be compared: one arm each.

Prose is Python's manual (a Debian package, fetched once), code is Python's standard library. Every
arm's result is kept in out/arms under what it depends on: a run that was stopped goes on with the
arms that are missing.
"""

import contextlib
import json
import shutil
import subprocess
import sysconfig
import tempfile
import time
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
from deepseek.weights.cache import home
from report import ROOT, say

KEPT = ROOT / "out" / "arms"
MANUAL = "python3.11-doc"
"""The package; the Python Software Foundation's licence."""
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
    rate: float = 3e-3
    decay: float = 0.1
    window: int = 256
    batch: int = 16
    micro: int = 8
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
    return [str(manual())], sorted(code)


def manual() -> Path:
    """The manual's sources as text files, fetched once."""
    folder = home() / "texts" / MANUAL
    if not folder.exists():
        say(f"fetching {MANUAL}")
        with tempfile.TemporaryDirectory() as name:
            subprocess.run(["apt-get", "download", MANUAL], cwd=name, check=True)
            package = next(Path(name).glob("*.deb"))
            subprocess.run(["dpkg-deb", "-x", package, f"{name}/files"], check=True)
            pages = sorted(Path(name, "files").rglob("*.rst.txt"))
            made = Path(name, "made")
            made.mkdir()
            for number, page in enumerate(pages):
                made.joinpath(f"{number:03d}-{page.name}").write_bytes(page.read_bytes())
            folder.parent.mkdir(parents=True, exist_ok=True)
            whole = Path(tempfile.mkdtemp(dir=folder.parent)) / MANUAL
            shutil.copytree(made, whole)
            with contextlib.suppress(OSError):  # another run was faster
                whole.rename(folder)
            shutil.rmtree(whole.parent)
    return folder


def run_arm(arm: Arm, quick: bool = False) -> dict[str, Any]:
    """Train and measure an arm, or give what is known of it.

    Returns:
        `nats` by source and in all, `labelled` the same with the gate told what is code, `loads`
        (without labels), `empty` (share of slots that the gate left empty), `n_parameters`,
        `seconds`.
    """
    prose, code = texts(quick)
    with tempfile.TemporaryDirectory() as folder:
        preset, file = Path(folder) / "shape.toml", Path(folder) / "run.toml"
        shape = ""
        if isinstance(arm.model, ModelConfig):
            shape = as_toml(arm.model)
            preset.write_text(shape)
        text = arm.config(prose, code, preset)
        key = sha256((shape + text.replace(folder, "") + str(arm.held_out)).encode()).hexdigest()
        kept = KEPT / f"{key[:20]}.json"
        if kept.exists():
            return json.loads(kept.read_text())  # type: ignore[no-any-return]
        threads = "" if arm.threads is None else f"threads = {arm.threads}"
        file.write_text(text.replace("[run]", f"[run]\n{threads}"))
        start = time.perf_counter()
        run = prepare_run(load_training_config(file), Path(folder) / "out")
        run.train()
        found = _measured(run.trainer.model, run.corpora, arm)
        found |= {"arm": arm.name, "seed": arm.seed, "seconds": time.perf_counter() - start}
    if not quick:
        KEPT.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found, indent=1))
    say(f"{arm.name}, seed {arm.seed}: {found['nats']} in {found['seconds']:.0f} s")
    return found


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
