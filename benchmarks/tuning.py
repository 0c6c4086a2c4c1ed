"""Low-rank tuning beside PEFT on transformers: speed, memory and loss on the same records.

    python benchmarks/tuning.py [--base smollm2-135m] [--rounds 6] [--batch 8] [--peers …]

Records are functions of Python's standard library, whose docstring is the answer: real lengths, up
to 512 tokens. Each side runs in a process of its own and has the same weights, first numbers,
records in the same order, rate and clipping; they take turns, a step each. The peer pads its
batches to the longest record, as its data collator does, and is given both number formats: the
row that is judged is against the faster one. The shares of parameters are counted.

A run writes benchmarks/results/tuning.json and .md.
"""

import argparse
import ast
import ctypes
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek.adapt.adapter_file import save_adapter
from deepseek.adapt.lora import LoraSettings, attach, trained
from deepseek.backends.transformers_model import load_transformers
from deepseek.cli.tune import ask_model
from deepseek.core.memory import peak_bytes, reset_peak
from deepseek.core.threads import thread_count
from deepseek.data.packed import Window
from deepseek.data.sampler import Sampler
from deepseek.model.config import load_preset
from deepseek.model.transformer import Transformer
from deepseek.train.loop import deterministic
from deepseek.train.tuning.config import TuningConfig, load_tuning_config
from deepseek.train.tuning.run import Tuning, open_base, prepare_tuning
from report import ROOT, Row, paired_row, say, say_row, write_results

WINDOW, RATE = 512, 2e-4
SPEED = (1.5, 3.0)
EQUAL_LOSS = 0.01
MOST_SHARE = 0.01
PEERS = ("float32", "bfloat16")
LIBRARY = ("argparse", "ast", "asyncio", "collections", "concurrent", "configparser", "csv")
LIBRARY += ("ctypes", "difflib", "email", "fractions", "http", "inspect", "ipaddress", "json")
LIBRARY += ("logging", "pathlib", "random", "shutil", "statistics", "string", "tarfile", "turtle")
LIBRARY += ("typing", "unittest", "urllib", "uuid", "xml", "zipfile")


def docstring_records(most: int) -> list[dict[str, str]]:
    """Functions of the standard library without their docstrings, and these as answers."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for file in (f for name in LIBRARY for f in _modules(library, name)):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            said = ast.get_docstring(node)
            if said is None or len(said) < 20 or len(node.body) < 2:
                continue
            node.body = node.body[1:]
            source = ast.unparse(node)
            if len(source) < 1_500:
                prompt = f"Write the docstring of this function.\n\n{source}"
                found.append({"prompt": prompt, "completion": said})
    return found[:: max(1, len(found) // most)][:most]


def _modules(library: Path, name: str) -> list[Path]:
    if (library / f"{name}.py").is_file():
        return [library / f"{name}.py"]
    return [f for f in sorted((library / name).rglob("*.py")) if "test" not in f.parts]


def config_of(base: str, data: Path, batch: int, steps: int) -> TuningConfig:
    settings = (
        f"tune.window={WINDOW}",
        f"tune.batch={batch}",
        f"tune.micro={batch}",
        f"tune.steps={steps}",
        f"optimiser.rate={RATE}",
        "validation.held_out=0.0",
    )
    return load_tuning_config(base, str(data), None, settings)


class Ours:
    """The trainer, step by step."""

    def __init__(self, run: Tuning) -> None:
        self._trainer = run.trainer
        self._trainer.model.train()

    def step(self, number: int) -> float:
        """Take one, and return its loss."""
        with deterministic():
            return float(self._trainer._take_step()["loss"])


class Peer:
    """PEFT's model in a plain loop."""

    def __init__(self, run: Tuning, base: str, dtype: str, folder: Path) -> None:
        import peft

        save_adapter(run.trainer.model, run.config.lora, folder / "start", base)
        self._batches, self._plan = list(batches(run)), run.trainer.plan
        source, _ = open_base(base)
        del run
        model = load_transformers(source, getattr(torch, dtype))
        self._model: Any = peft.PeftModel.from_pretrained(
            model, folder / "start", is_trainable=True
        )
        self._model.train()
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=RATE, betas=(0.9, 0.999), weight_decay=0.0, fused=True
        )

    def step(self, number: int) -> float:
        """Take one, and return its loss."""
        for group in self._optimiser.param_groups:
            group["lr"] = RATE * self._plan.rate_factor(number)
        ids, mask, labels = padded(self._batches[number])
        loss = self._model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(loss.detach())


def batches(run: Tuning) -> Iterator[list[Window]]:
    """What each step reads."""
    plan = run.trainer.plan
    sampler = Sampler(run.data.train, WINDOW, run.config.tune.seed, whole=True)
    sampler.begin(plan.stages[0].mix)
    for _ in range(plan.n_steps):
        yield [sampler.draw() for _ in range(plan.batch)]


def padded(windows: Sequence[Window]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels as transformers wants them: at the tokens themselves."""
    pieces = [window.pieces[0] for window in windows]
    width = max(len(piece.ids) for piece in pieces)
    ids = torch.zeros(len(pieces), width, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, piece in enumerate(pieces):
        n = len(piece.ids)
        ids[row, :n] = torch.from_numpy(piece.ids)
        labels[row, 1:n] = torch.from_numpy(piece.labels[:-1])
        mask[row, :n] = 1
    return ids, mask, labels


def serve(side: str, args: argparse.Namespace) -> None:
    """One side: reads numbers of steps, writes what each took."""
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.set_num_threads(thread_count()[0])
        config = config_of(args.base, args.data, args.batch, args.rounds)
        run = prepare_tuning(config, folder / "run", ask_model)
        stepper = Ours(run) if side == "ours" else Peer(run, args.base, side, folder)
        sizes = [(sum(w.n_tokens for w in b), sum(w.n_labels for w in b)) for b in batches(run)]
        del run
        ctypes.CDLL(None).malloc_trim(0)  # the peer has loaded our model before its own
        reset_peak()
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            number = int(line)
            start = time.perf_counter()
            loss = stepper.step(number)
            seconds = time.perf_counter() - start
            tokens, learned = sizes[number]
            facts = {"loss": loss, "seconds": seconds, "tokens": tokens, "learned": learned}
            print(json.dumps(facts | {"peak": peak_bytes()}), flush=True)


class Side:
    """A process that serves one side."""

    def __init__(self, name: str, args: argparse.Namespace, data: Path) -> None:
        command = [sys.executable, __file__, "--side", name, "--data", str(data)]
        for option in ("base", "rounds", "batch"):
            command += [f"--{option}", str(getattr(args, option))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()
        self.steps: list[Mapping[str, float]] = []

    def step(self, number: int) -> None:
        """Let it take one."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        self.steps.append(self._answer())

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    @property
    def peak(self) -> float:
        """Most memory that it held, in MiB."""
        return max(step["peak"] for step in self.steps) / 2**20

    def speeds(self) -> list[float]:
        """Tokens a second of each step, the first one left out: it warms up."""
        return [step["tokens"] / step["seconds"] for step in self.steps[1:]]

    def loss(self) -> float:
        """Mean of the last half of the steps."""
        last = [step["loss"] for step in self.steps[len(self.steps) // 2 :]]
        return sum(last) / len(last)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a side ended early: see above")
        return json.loads(line)


def measure(args: argparse.Namespace) -> list[Row]:
    """Sides in turns, then rows against the faster peer."""
    import peft
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "docstrings.jsonl"
        records = docstring_records(args.batch * args.rounds * 2)
        data.write_text("".join(json.dumps(record) + "\n" for record in records))
        sides = {name: Side(name, args, data) for name in ("ours", *args.peers)}
        try:
            for number in range(args.rounds):
                for name, side in sides.items():
                    side.step(number)
                    last = side.steps[-1]
                    say(f"{name}: {last['tokens'] / last['seconds']:.0f} tokens/s, {last}")
        finally:
            for side in sides.values():
                side.close()
    ours = sides.pop("ours")
    fastest = max(sides, key=lambda name: sum(sides[name].speeds()))
    name = f"peft {peft.__version__} on transformers {transformers.__version__}"
    about = f"LoRA on {args.base}, {WINDOW} tokens at most"
    rows = []
    for dtype, peer in sides.items():
        pairs = list(zip(ours.speeds(), peer.speeds(), strict=True))
        musts = SPEED if dtype == fastest else (None, None)
        ratios = [a / b for a, b in pairs]
        rows.append(paired_row(about, "tokens/s", f"{name}, {dtype}", pairs, ratios, musts))
        rows.append(
            Row(
                f"{about}: loss of the last steps",
                ours.loss(),
                "nats",
                f"{name}, {dtype}",
                peer.loss(),
                must=1 + EQUAL_LOSS if dtype == fastest else None,
                better="lower",
                judge="ratio",
            )
        )
        rows.append(
            Row(
                f"{about}: peak memory",
                ours.peak,
                "MiB",
                f"{name}, {dtype}",
                peer.peak,
                better="lower",
                judge="ratio",
            )
        )
    return rows


def share_rows() -> list[Row]:
    """Of parameters that are trained, on Qwen2.5-Coder-1.5B."""
    without_gate = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    choices = {
        "rank 16 on all linear layers": (LoraSettings(), None),
        "rank 13 on all linear layers": (LoraSettings(rank=13, alpha=26.0), MOST_SHARE),
        "rank 16 on all but gate_proj": (LoraSettings(targets=without_gate), MOST_SHARE),
    }
    rows = []
    for name, (settings, must) in choices.items():
        with torch.device("meta"):
            model = Transformer(load_preset(ROOT / "configs/qwen2.5-coder-1.5b.toml"))
            n_base = sum(p.numel() for p in model.parameters())
            attach(model, settings, torch.float32, None)
        n_trained = sum(p.numel() for _, p in trained(model))
        share = n_trained / (n_base + n_trained)
        rows.append(
            Row(f"qwen2.5-coder-1.5b, {name}", share, "of parameters", must=must, better="lower")
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=6, help="steps of each side")
    parser.add_argument("--batch", type=int, default=8, help="records of a step")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--quick", action="store_true", help="two steps; nothing is written")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        serve(args.side, args)
        return
    if args.quick:
        args.rounds = 2
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rows = [*measure(args), *share_rows()]
    for row in rows:
        say_row(row)
    if not args.quick:
        write_results("tuning", rows, sys.argv)


if __name__ == "__main__":
    main()
